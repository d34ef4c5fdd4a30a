-- The owner's limits and lifetimes (model.CartTerms), packed by the caller into one argument. A function, which
-- lives on from call to call, keeps the few that there are; nobody changes what it gets.
local terms_known, terms_count = {}, 0

local function terms_decode(packed)
  local terms = terms_known[packed]
  if terms then
    return terms
  end
  local ttl, cap, cart_ttl, quantity_max, lines_max, items_max, held_max, share, reservations, rest =
    string.match(packed, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([01]) (%d+)$')
  if not ttl then
    return nil
  end
  local decoded = {
    ttl = tonumber(ttl),
    cap = tonumber(cap),
    cart_ttl = tonumber(cart_ttl),
    quantity_max = tonumber(quantity_max),
    lines_max = tonumber(lines_max),
    items_max = tonumber(items_max),
    held_max = tonumber(held_max),
    guest_share_ppm = tonumber(share),
    reservations = reservations == '1',
    rest = tonumber(rest),
  }
  -- What holds of a line whose units rest: they are added and changed as without reservations.
  decoded.resting = setmetatable({ reservations = false }, { __index = decoded })
  if terms_count == 100 then
    terms_known, terms_count = {}, 0
  end
  terms_known[packed] = decoded
  terms_count = terms_count + 1
  return decoded
end
