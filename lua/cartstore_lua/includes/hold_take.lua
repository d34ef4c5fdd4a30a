--- @include hold_period
--- @include hold_set
--- @include lifetime_reach

-- Hold `held` units for a line that does not rest (line_rests). A line that holds nothing yet, or whose hold lapsed, takes
-- over the first hold of its owner's period of the SKU, or starts a new one; an expiry never moves backwards. extends: whether the caller goes on to extend the whole cart (holds_extend); then
-- the index is only written when that alone would not reach as far.
local function hold_take(call, cart, stock, line_id, line, held, terms, extends)
  local is_new = line.held == 0 or line.expires <= call.now
  if is_new then
    local first = hold_period(call, cart, line_id, terms)
    line.first, line.expires, line.indexed = math.min(first or call.now, call.now), 0, 0
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
  if line_id ~= stock.sku then
    cart.period_end = math.max(cart.period_end, line.latest)
  end
  line.expires = expires
  cart.ttl_min = cart.ttl_min > 0 and math.min(cart.ttl_min, line.ttl) or line.ttl
  hold_set(call, cart, stock, line_id, line, held)
end
