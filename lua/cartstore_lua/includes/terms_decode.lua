-- The owner's limits and lifetimes (model.CartTerms), packed by the caller into one argument. A function, which
-- lives on from call to call, keeps the few that there are; nobody changes what it gets.
local terms_known, terms_count = {}, 0

local function terms_decode(packed)
  local terms = terms_known[packed]
  if terms then
    return terms
  end
  local ttl, cap, cart_ttl, quantity_max, lines_max, items_max, held_max, share, reservations =
    string.match(packed, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([01])$')
  if not ttl then
    return nil
  end
  terms = {
    ttl = tonumber(ttl),
    cap = tonumber(cap),
    cart_ttl = tonumber(cart_ttl),
    quantity_max = tonumber(quantity_max),
    lines_max = tonumber(lines_max),
    items_max = tonumber(items_max),
    held_max = tonumber(held_max),
    guest_share_ppm = tonumber(share),
    reservations = reservations == '1',
  }
  if terms_count == 100 then
    terms_known, terms_count = {}, 0
  end
  terms_known[packed] = terms
  terms_count = terms_count + 1
  return terms
end
