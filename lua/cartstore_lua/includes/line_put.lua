--- @include hold_take
--- @include hold_set

-- Give a line a quantity that line_check has allowed, in memory: totals, hold, times. The caller goes on to
-- extend the cart's holds.
-- seen: whether the buyer sees the current price and revision with this (add, or a new line).
local function line_put(call, cart, stock, line_id, quantity, seen, properties, terms)
  local line = cart.lines[line_id]
  if not line then
    cart.ordinal = cart.ordinal + 1
    cart.count = cart.count + 1
    line = {
      quantity = 0, held = 0, expires = 0, indexed = 0, latest = 0, first = 0, ttl = 0, price = stock.price,
      revision = stock.revision, ordinal = cart.ordinal, added = call.now, updated = call.now,
    }
    cart.lines[line_id] = line
    cart.currency = stock.currency
    if properties ~= '' then
      line.new_properties = properties
    end
  end
  local total_before = line.quantity * line.price
  if seen then
    line.price = stock.price
    line.revision = stock.revision
  end
  cart.units = cart.units + quantity - line.quantity
  cart.subtotal = cart.subtotal - total_before + quantity * line.price
  line.quantity = quantity
  line.updated = call.now
  if stock.policy == 'deny' and stock.hold_policy == 'on_add' and terms.reservations then
    hold_take(call, cart, stock, line_id, line, quantity, terms, true)
  elseif line.held > quantity then
    hold_set(call, cart, stock, line_id, line, quantity)
  end
  cart.changed[line_id] = true
end
