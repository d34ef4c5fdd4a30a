--[[
  payment_release_due: release payments whose window is over, or that are due because the clock
  was set back; those that hold nothing included.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  limit                  payments released at most
  Returns  {'OK', released, position} | {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(limit * lines of an order * log holds)
]]
--- @include call_begin
--- @include payment_release

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if call.disk == 'out' then
  return { 'STORE_FULL' }
end
local limit = tonumber(ARGV[4])
if not limit then
  return redis.error_reply('CARTBADARG limit')
end

local due_key = call.prefix .. 'due'
local due = redis.call('ZRANGEBYSCORE', due_key, '-inf', int(call.now), 'LIMIT', 0, limit)
if #due < limit then
  -- Both ends of the index are due, as is_due has it: the clock may have been set back.
  local late = redis.call(
    'ZRANGEBYSCORE', due_key, '(' .. int(call.now + call.lifetime), '+inf', 'LIMIT', 0, limit - #due
  )
  for _, payment_id in ipairs(late) do
    due[#due + 1] = payment_id
  end
end
local released = 0
for _, payment_id in ipairs(due) do
  if payment_release(call, payment_id, 'expired') then
    released = released + 1
  else
    -- An entry without a pending payment would be met again for ever.
    redis.call('ZREM', due_key, payment_id)
  end
end
return { 'OK', int(released), call.position or '' }
