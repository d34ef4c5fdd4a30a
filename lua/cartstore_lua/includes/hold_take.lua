--- @include hold_set

-- Hold `held` units for a line. A line that holds nothing yet, or whose hold lapsed, starts a new first
-- hold; an expiry never moves backwards.
local function hold_take(call, cart, stock, line_id, line, held, terms)
  if line.held == 0 then
    line.first = call.now
    line.expires = 0
  end
  line.ttl = stock.ttl
  local ttl = stock.ttl > 0 and stock.ttl or terms.ttl
  line.expires = math.max(line.expires, math.min(call.now + ttl, line.first + terms.cap))
  hold_set(call, cart, stock, line_id, line, held)
end
