--- @include line_sku
--- @include orders_end
--- @include period_is_over

-- The period in which a cart's owner holds the SKU of a line: when its first hold was, over all lines and pending orders and over
-- what was held less than a rest ago; nil when a new hold starts a new one. And, once the cap counted from the first
-- hold is reached, until when the owner's units rest; 0 before. While an order holds units, that is as late as it may be.
local function hold_period(call, cart, line_id, terms)
  local now, rest, sku = call.now, terms.rest, line_sku(line_id)
  local its_line = cart.lines[line_id]
  if cart.period_end == 0 and cart.waiting == 0 and sku == line_id and not (its_line and its_line.held > 0) then
    -- Common case: nothing is recorded, and no line with properties shares the period.
    return nil, 0
  end
  local first, ended = nil, 0
  for other_id, line in pairs(cart.lines) do
    if line.held > 0 and line.expires + rest > now and line_sku(other_id) == sku then
      first = math.min(first or line.first, line.first)
      ended = math.max(ended, line.expires)
    end
  end
  local period = cart.periods[sku]
  if period and not period_is_over(period, now, rest) then
    first = math.min(first or period.first, period.first)
    ended = math.max(ended, period.ended)
  else
    period = nil
  end
  if not first or first + terms.cap > now then
    return first, 0
  end
  if period and period.ordered > 0 then
    ended = math.max(ended, orders_end(call, cart.id))
  end
  return first, ended + rest
end
