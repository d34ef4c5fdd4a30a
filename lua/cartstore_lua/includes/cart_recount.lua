--- @include cart_waiting

-- Set a cart's running totals to what its lines and its owner's pending orders add up to, in memory. Units of orders that
-- cannot be read are left as they are. Returns whether any total was another one.
local function cart_recount(call, cart)
  local count, units, subtotal, held = 0, 0, 0, 0
  for _, line in pairs(cart.lines) do
    count = count + 1
    units = units + line.quantity
    subtotal = subtotal + line.quantity * line.price
    held = held + line.held
  end
  local waiting = cart_waiting(call, cart.id) or cart.waiting
  local is_right = cart.count == count and cart.units == units and cart.subtotal == subtotal and cart.held == held
    and cart.waiting == waiting
  cart.count, cart.units, cart.subtotal, cart.held, cart.waiting = count, units, subtotal, held, waiting
  return not is_right
end
