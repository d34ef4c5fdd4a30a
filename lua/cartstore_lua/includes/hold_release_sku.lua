--- @include int
--- @include line_decode
--- @include line_encode
--- @include holding_refresh
--- @include payment_release

-- Release up to `limit` due holds and orders of one SKU, so that its availability is exact in this instant.
-- A hold later than the longest lifetime is due as well: the clock stepped back since it was taken.
-- Returns the number released and whether more are due. Each entry is a whole transition: what this call
-- itself goes on to check and write starts afterwards.
local function hold_release_sku(call, sku, limit)
  local holds_key = call.prefix .. 'holds:' .. sku
  local due = redis.call('ZRANGEBYSCORE', holds_key, '-inf', int(call.now), 'LIMIT', 0, limit + 1)
  if #due <= limit then
    local late = redis.call(
      'ZRANGEBYSCORE', holds_key, '(' .. int(call.now + call.lifetime), '+inf', 'LIMIT', 0, limit + 1 - #due
    )
    for _, member in ipairs(late) do
      due[#due + 1] = member
    end
  end
  if #due == 0 then
    return 0, false
  end
  local released = math.min(#due, limit)
  local units, guest_units = 0, 0
  for index = 1, released do
    local member = due[index]
    local kind, holder, line_id = string.match(member, '^(%a)\31([^\31]+)\31?([^\31]*)$')
    if kind == 'o' then
      local payment_id = redis.call('HGET', call.prefix .. 'order:' .. holder, 'payment')
      if payment_id then
        payment_release(call, payment_id, 'expired')
      end
      redis.call('ZREM', holds_key, member)
    else
      local cart_key = call.prefix .. 'cart:' .. holder
      local cart = redis.call('HMGET', cart_key, 'l:' .. line_id, 't', 'h', 'w', 'x')
      local line = cart[1] and line_decode(cart[1], tonumber(cart[2]))
      redis.call('ZREM', holds_key, member)
      if line and line.held > 0 then
        units = units + line.held
        if string.sub(holder, 1, 2) == 'g.' then
          guest_units = guest_units + line.held
        end
        local held = tonumber(cart[3]) - line.held
        line.held = 0
        redis.call('HSET', cart_key, 'l:' .. line_id, line_encode(line, tonumber(cart[2])), 'h', int(held))
        if held + tonumber(cart[4]) <= 0 then
          redis.call('PEXPIRE', cart_key, cart[5])
        end
      end
    end
  end
  if units > 0 then
    local sku_key = call.prefix .. 'sku:' .. sku
    redis.call('HINCRBY', sku_key, 'held', int(-units))
    redis.call('HINCRBY', sku_key, 'rev', 1)
    if guest_units > 0 then
      redis.call('HINCRBY', sku_key, 'guest_held', int(-guest_units))
    end
  end
  holding_refresh(call, sku)
  return released, #due > limit
end
