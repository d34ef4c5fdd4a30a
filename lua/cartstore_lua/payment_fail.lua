--[[
  payment_fail: one failed attempt; the payment stays pending, so that the buyer may try again.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', now, position, <payment>, <order>...} | {'PAYMENT_EXPIRED'} | {'PAYMENT_STATE', status}
           {'PAYMENT_NOT_FOUND'} | {'FENCED'}
  Faults   none
  Cost     O(lines of the orders)
]]
--- @include call_begin
--- @include is_due
--- @include payment_release
--- @include outbox_append
--- @include payment_reply

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
local known = redis.call('HMGET', KEYS[2], 'status', 'expires', 'attempts')
if not known[1] then
  return { 'PAYMENT_NOT_FOUND' }
end
if known[1] == 'pending' and is_due(call, tonumber(known[2])) then
  payment_release(call, payment_id, 'expired')
  return { 'PAYMENT_EXPIRED' }
end
if known[1] == 'expired' then
  return { 'PAYMENT_EXPIRED' }
end
if known[1] ~= 'pending' then
  return { 'PAYMENT_STATE', known[1] }
end

local attempts = int(tonumber(known[3]) + 1)
-- Written once before the event, so that the count cannot be refused after it.
redis.call('HSET', KEYS[2], 'intent', 'failed')
local position = outbox_append(
  call, 'payment_failed', { payment_id = payment_id, attempts = attempts }, payment_id, 0
)
redis.call('HSET', KEYS[2], 'attempts', attempts, 'event', position)
return payment_reply(call, 'OK', payment_id)
