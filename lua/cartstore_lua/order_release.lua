--[[
  order_release: release all orders of a pending payment: expired, or cancelled by the buyer.
  Why atomic: exactly one of settle, cancel and expiry takes a pending payment to its end.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  reason                 'expired' or 'cancelled'
  Returns  {'OK', now, position, <payment>, <order>...} | {'UNCHANGED', now, position, <payment>, <order>...}
           {'ORDER_STATE', status} | {'PAYMENT_NOT_FOUND'} | {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the orders * log holds)
]]
--- @include call_begin
--- @include is_due
--- @include payment_release
--- @include payment_reply

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local reason = ARGV[4]
if reason ~= 'expired' and reason ~= 'cancelled' then
  return redis.error_reply('CARTBADARG reason')
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
local known = redis.call('HMGET', KEYS[2], 'status', 'expires')
if not known[1] then
  return { 'PAYMENT_NOT_FOUND' }
end
if known[1] ~= 'pending' then
  if known[1] == 'expired' or known[1] == 'cancelled' then
    return payment_reply(call, 'UNCHANGED', payment_id)
  end
  return { 'ORDER_STATE', known[1] }
end
if call.disk == 'out' then
  return { 'STORE_FULL' }
end
local is_over = is_due(call, tonumber(known[2]))
if reason == 'expired' and not is_over then
  return payment_reply(call, 'UNCHANGED', payment_id)
end

payment_release(call, payment_id, is_over and 'expired' or reason)
return payment_reply(call, 'OK', payment_id)
