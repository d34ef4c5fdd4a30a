--- @include cart_load

-- Give the lines of released orders back to their cart, unheld, in memory. A line that is in the cart again grows; a
-- cart that has another currency by now takes nothing back. Returns the cart, and whether it takes them: then saving it
-- is a change.
local function order_lines_return(call, payment, waiting)
  local cart = cart_load(call, payment.cart)
  cart.waiting = math.max(0, cart.waiting - waiting)
  if cart.ttl == 0 then
    cart.ttl = tonumber(payment.cart_ttl)
  end
  local takes = cart.count == 0 or cart.currency == payment.currency
  if takes then
    cart.currency = payment.currency
    for _, order in ipairs(payment.list) do
      for _, bought in ipairs(order.lines) do
        local line = cart.lines[bought.line_id]
        if not line then
          line = {
            quantity = 0, held = 0, expires = 0, indexed = 0, latest = 0, first = 0, ttl = 0, price = bought.price,
            revision = bought.revision, added = call.now, updated = call.now,
          }
          cart.ordinal = cart.ordinal + 1
          line.ordinal = cart.ordinal
          cart.count = cart.count + 1
          cart.lines[bought.line_id] = line
          if bought.properties ~= '' then
            line.new_properties = bought.properties
          end
        end
        line.quantity = line.quantity + bought.quantity
        line.updated = call.now
        cart.units = cart.units + bought.quantity
        cart.subtotal = cart.subtotal + bought.quantity * line.price
        cart.changed[bought.line_id] = true
      end
    end
  end
  return cart, takes
end
