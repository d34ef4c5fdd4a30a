--- @include hold_set
--- @include lifetime_reach

-- Hold `held` units for a line. A line that holds nothing yet, or whose hold lapsed, starts a new first hold; an
-- expiry never moves backwards. extends: whether the caller goes on to extend the whole cart (holds_extend); then
-- the index is only written when that alone would not reach as far.
local function hold_take(call, cart, stock, line_id, line, held, terms, extends)
  local is_new = line.held == 0 or line.expires <= call.now
  if is_new then
    line.first, line.expires, line.indexed = call.now, 0, 0
  end
  line.ttl = stock.ttl > 0 and stock.ttl or terms.ttl
  line.latest = line.first + terms.cap
  local reached = math.min(call.now + line.ttl, line.latest)
  local expires = math.max(line.expires, reached)
  lifetime_reach(call, reached - call.now)
  if is_new or reached < line.expires or (not extends and expires > line.indexed) then
    local member = 'c\31' .. cart.id .. '\31' .. line_id
    line.indexed = expires
    cart.zrem[member] = nil
    cart.zadd[member] = { stock, line }
  end
  line.expires = expires
  cart.ttl_min = cart.ttl_min > 0 and math.min(cart.ttl_min, line.ttl) or line.ttl
  hold_set(call, cart, stock, line_id, line, held)
end
