-- The owner's limits and lifetimes (model.CartTerms), packed by the caller into one argument.
local function terms_decode(packed)
  local ttl, cap, cart_ttl, quantity_max, lines_max, items_max, held_max, share, reservations =
    string.match(packed, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([01])$')
  if not ttl then
    return nil
  end
  return {
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
end
