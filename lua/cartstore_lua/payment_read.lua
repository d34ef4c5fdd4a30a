--[[
  payment_read: a payment with its orders; released first when its window is over.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', now, position, <payment>, <order>...} | {'PAYMENT_NOT_FOUND'} | {'FENCED'}
  Faults   none
  Cost     O(lines of the orders)
]]
--- @include call_begin
--- @include is_due
--- @include payment_release
--- @include payment_reply

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
local known = redis.call('HMGET', KEYS[2], 'status', 'expires')
if not known[1] then
  return { 'PAYMENT_NOT_FOUND' }
end
if known[1] == 'pending' and is_due(call, tonumber(known[2])) then
  payment_release(call, payment_id, 'expired')
end
return payment_reply(call, 'OK', payment_id)
