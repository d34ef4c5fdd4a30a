-- Append the running totals to a reply: version, lines, units, subtotal, currency.
local function summary_append(reply, cart)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = cart.version, cart.count, cart.units
  reply[n + 4], reply[n + 5] = cart.subtotal, cart.currency
end
