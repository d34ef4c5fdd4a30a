--- @include cart_waiting

-- Set a cart's running totals, and the units in orders of its hold periods, to what its lines and its owner's pending
-- orders add up to, in memory. Units of orders that cannot be read are left as they are. Returns whether any total was
-- another one, and the number of SKUs whose units in orders were.
local function cart_recount(call, cart)
  local count, units, subtotal, held = 0, 0, 0, 0
  for _, line in pairs(cart.lines) do
    count = count + 1
    units = units + line.quantity
    subtotal = subtotal + line.quantity * line.price
    held = held + line.held
  end
  local waiting, by_sku = cart_waiting(call, cart.id)
  waiting = waiting or cart.waiting
  local is_right = cart.count == count and cart.units == units and cart.subtotal == subtotal and cart.held == held
    and cart.waiting == waiting
  cart.count, cart.units, cart.subtotal, cart.held, cart.waiting = count, units, subtotal, held, waiting
  local differing = 0
  for sku, period in pairs(by_sku and cart.periods or {}) do
    local ordered = by_sku[sku] and by_sku[sku].units or 0
    if period.ordered ~= ordered then
      differing = differing + 1
      period.ordered = ordered
      cart.periods_changed[sku] = true
    end
  end
  for sku, its in pairs(by_sku or {}) do
    if not cart.periods[sku] then
      differing = differing + 1
      cart.periods[sku] = { first = its.first, ended = call.now, ordered = its.units }
      cart.periods_changed[sku] = true
    end
  end
  return not is_right or differing > 0, differing
end
