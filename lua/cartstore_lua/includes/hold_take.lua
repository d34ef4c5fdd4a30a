--- @include hold_set

-- Hold `held` units for a line. A line that holds nothing yet, or whose hold lapsed, starts a new first
-- hold; an expiry never moves backwards. The index is only written when the expiry moved.
local function hold_take(call, cart, stock, line_id, line, held, terms)
  local is_new = line.held == 0
  if is_new then
    line.first = call.now
    line.expires = 0
  end
  line.ttl = stock.ttl
  local ttl = stock.ttl > 0 and stock.ttl or terms.ttl
  local expires = math.max(line.expires, math.min(call.now + ttl, line.first + terms.cap))
  if is_new or expires > line.expires then
    local member = 'c\31' .. cart.id .. '\31' .. line_id
    line.expires = expires
    cart.zrem[member] = nil
    cart.zadd[member] = { stock.sku, line, is_new }
  end
  hold_set(call, cart, stock, line_id, line, held)
end
