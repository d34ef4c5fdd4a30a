--- @include hold_take
--- @include line_rests
--- @include line_sku
--- @include sku_free
--- @include sku_load

-- Hold all of a line's units that it does not hold, unless they rest, if there are as many for this owner, in memory.
-- Returns whether it took them; none is no failure, the line stays in its cart as it is.
local function hold_retake(call, cart, line_id, terms)
  local line, stock = cart.lines[line_id], sku_load(call, line_sku(line_id))
  local missing = line.quantity - line.held
  local is_on_sale = stock and stock.active and not (stock.starts and call.now < stock.starts)
  local takes = is_on_sale and stock.policy == 'deny' and stock.hold_policy == 'on_add'
    and terms.reservations and missing > 0
  if not takes or missing > sku_free(stock, cart.is_guest, terms.guest_share_ppm)
    or cart.held + cart.waiting + missing > terms.held_max
    or line_rests(call, cart, line_id, line, terms) > 0 then
    return false
  end
  hold_take(call, cart, stock, line_id, line, line.quantity, terms, false)
  cart.changed[line_id] = true
  return true
end
