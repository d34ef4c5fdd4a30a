--- @include int

-- Append the running totals to a reply: version, lines, units, subtotal, currency.
local function summary_append(reply, cart)
  reply[#reply + 1] = int(cart.version)
  reply[#reply + 1] = int(cart.count)
  reply[#reply + 1] = int(cart.units)
  reply[#reply + 1] = int(cart.subtotal)
  reply[#reply + 1] = cart.currency
end
