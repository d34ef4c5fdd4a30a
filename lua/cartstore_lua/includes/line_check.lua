--- @include sku_free

-- Whether a line may have this quantity: quantity rules, limits, stock, in that order.
-- count, units, subtotal: of the cart as it is. counted: units that its owner holds, or that wait in his orders.
-- has, held, seen: the line's quantity, units and price; 0 of a new one. price: what the line will be seen at.
-- Returns nil, or the refusal to give.
local function line_check(stock, terms, is_guest, count, units, subtotal, counted, has, held, seen, quantity, price)
  if quantity < stock.min or (stock.max > 0 and quantity > stock.max) or quantity % stock.multiple ~= 0 then
    return { 'INVALID_QUANTITY', stock.min .. ' ' .. stock.max .. ' ' .. stock.multiple }
  end
  if quantity > terms.quantity_max then
    return { 'LIMIT_EXCEEDED', 'max_quantity_per_line', terms.quantity_max }
  end
  if has == 0 and count + 1 > terms.lines_max then
    return { 'LIMIT_EXCEEDED', 'max_lines_per_cart', terms.lines_max }
  end
  if quantity > has and units - has + quantity > terms.items_max then
    return { 'LIMIT_EXCEEDED', 'max_items_per_cart', terms.items_max }
  end
  if subtotal - has * seen + quantity * price > 9000000000000000 then
    return { 'LIMIT_EXCEEDED', 'total', 9000000000000000 }
  end
  if stock.policy ~= 'deny' then
    return nil
  end
  local missing = quantity - held
  if missing > 0 and terms.reservations and stock.hold_policy == 'on_add' and counted + missing > terms.held_max then
    -- Units of the owner that are due do not count; who calls this has them released and asks again.
    return { 'LIMIT_EXCEEDED', 'max_held_per_owner', terms.held_max }
  end
  local free = sku_free(stock, is_guest, terms.guest_share_ppm)
  if missing > free then
    -- The rules' maximum is kept: what was wanted is within it, and more than there is.
    local available = free + held
    local fitting = available - available % stock.multiple
    return { 'INSUFFICIENT_STOCK', available, quantity, fitting >= stock.min and fitting or 0 }
  end
  return nil
end
