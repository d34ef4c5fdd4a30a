--- @include hold_set
--- @include sku_load
--- @include line_sku

-- Take a line out of the cart, in memory; its hold goes back in the same step.
local function line_drop(call, cart, line_id)
  local line = cart.lines[line_id]
  if line.held > 0 then
    hold_set(call, cart, sku_load(call, line_sku(line_id)), line_id, line, 0)
  end
  cart.units = cart.units - line.quantity
  cart.subtotal = cart.subtotal - line.quantity * line.price
  cart.count = cart.count - 1
  cart.lines[line_id] = nil
  cart.changed[line_id] = nil
  cart.gone[line_id] = true
end
