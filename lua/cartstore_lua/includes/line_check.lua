--- @include sku_free

-- Whether a line may have this quantity: quantity rules, limits, stock, in that order.
-- line: as in the cart, or a fresh one with quantity 0 and held 0. price: what the line will be seen at.
-- Returns nil, or the refusal to give.
local function line_check(cart, stock, line, quantity, price, terms)
  if quantity < stock.min or (stock.max > 0 and quantity > stock.max) or quantity % stock.multiple ~= 0 then
    return { 'INVALID_QUANTITY', stock.min .. ' ' .. stock.max .. ' ' .. stock.multiple }
  end
  if quantity > terms.quantity_max then
    return { 'LIMIT_EXCEEDED', 'max_quantity_per_line', terms.quantity_max }
  end
  if line.quantity == 0 and cart.count + 1 > terms.lines_max then
    return { 'LIMIT_EXCEEDED', 'max_lines_per_cart', terms.lines_max }
  end
  if quantity > line.quantity and cart.units - line.quantity + quantity > terms.items_max then
    return { 'LIMIT_EXCEEDED', 'max_items_per_cart', terms.items_max }
  end
  if cart.subtotal - line.quantity * (line.price or 0) + quantity * price > 9000000000000000 then
    return { 'LIMIT_EXCEEDED', 'total', 9000000000000000 }
  end
  if stock.policy ~= 'deny' then
    return nil
  end
  local takes = terms.reservations and stock.hold_policy == 'on_add'
  local missing = quantity - line.held
  if takes and missing > 0 and cart.held + cart.waiting + missing > terms.held_max then
    -- Units of the owner that are due do not count; who calls this has them released and asks again.
    return { 'LIMIT_EXCEEDED', 'max_held_per_owner', terms.held_max }
  end
  local free = sku_free(stock, cart.is_guest, terms.guest_share_ppm)
  if missing > free then
    return { 'INSUFFICIENT_STOCK', free + line.held, quantity }
  end
  return nil
end
