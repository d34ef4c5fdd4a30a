--- @include hold_give_back
--- @include int
--- @include cart_decode
--- @include cart_encode
--- @include line_decode
--- @include line_encode
--- @include period_decode
--- @include period_encode
--- @include period_note
--- @include holding_refresh
--- @include payment_release

-- Release up to `limit` due holds and orders of one SKU, so that its availability is exact in this instant.
-- A hold later than the longest lifetime is due as well: the clock stepped back since it was taken. An entry
-- whose line was extended since is put where the line's hold ends now.
-- Returns the number looked at, whether more are to be looked at, and the number released. Each entry is a whole
-- transition: what this call itself goes on to check and write starts afterwards.
local function hold_release_sku(call, sku, limit)
  local holds_key = call.prefix .. 'holds:' .. sku
  local due = redis.call('ZRANGEBYSCORE', holds_key, '-inf', call.now, 'LIMIT', 0, limit + 1)
  if #due <= limit then
    local late = redis.call(
      'ZRANGEBYSCORE', holds_key, '(' .. int(call.now + call.lifetime), '+inf', 'LIMIT', 0, limit + 1 - #due
    )
    for _, member in ipairs(late) do
      due[#due + 1] = member
    end
  end
  if #due == 0 then
    -- The bounds were early: the hold that they were set for has been taken back since.
    holding_refresh(call, sku)
    return 0, false, 0
  end
  if call.disk == 'out' then
    -- What is due stays held, and whoever needs to know it exactly is told to come again.
    return 0, true, 0
  end
  local looked = math.min(#due, limit)
  -- All out first, in one command: what was extended goes in again.
  redis.call('ZREM', holds_key, unpack(due, 1, looked))
  local released, units, guest_units = 0, 0, 0
  for index = 1, looked do
    local member = due[index]
    local kind, holder, line_id = string.match(member, '^(%a)\31([^\31]+)\31?([^\31]*)$')
    if kind == 'o' then
      local payment_id = redis.call('HGET', call.prefix .. 'order:' .. holder, 'payment')
      if payment_id then
        payment_release(call, payment_id, 'expired')
      end
      released = released + 1
    else
      local cart_key = call.prefix .. 'cart:' .. holder
      local read = redis.call('HMGET', cart_key, 'a', 'l:' .. line_id, 'h:' .. sku)
      local cart = cart_decode(call, holder, read[1])
      local line = read[2] and line_decode(read[2], cart.created, cart.extended, call.now)
      if line and line.held > 0 and line.expires > call.now and line.expires <= call.now + call.lifetime then
        line.indexed = line.expires
        redis.call('ZADD', holds_key, line.indexed, member)
        redis.call('HSET', cart_key, 'l:' .. line_id, line_encode(line, cart.created))
      else
        released = released + 1
        if line and line.held > 0 then
          units = units + line.held
          if cart.is_guest then
            guest_units = guest_units + line.held
          end
          cart.held = cart.held - line.held
          if line.expires > call.now then
            -- No clock tells a rebuild that this hold is over, so the cart's snapshot has to.
            cart.version = redis.call('HINCRBY', call.gate_key, 'change', 1)
            redis.call('ZADD', call.prefix .. 'activity', cart.version, holder)
          end
          cart.periods[sku] = read[3] and period_decode(read[3], cart.created)
          period_note(call, cart, sku, line.first, line.expires, 0)
          line.held = 0
          redis.call(
            'HSET', cart_key, 'a', cart_encode(cart), 'l:' .. line_id, line_encode(line, cart.created),
            'h:' .. sku, period_encode(cart.periods[sku], cart.created)
          )
          if cart.held + cart.waiting <= 0 then
            redis.call('PEXPIRE', cart_key, cart.ttl)
          end
        end
      end
    end
  end
  if units > 0 then
    hold_give_back(call, sku, units, guest_units)
  end
  call.skus[sku] = nil
  holding_refresh(call, sku)
  return looked, #due > limit, released
end
