--[[
  order_refund: the money of a refund_due order went back.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  KEYS[3]  order hash             {ns:p}:order:<order_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', now, position, <payment>, <order>...} | {'UNCHANGED', now, position, <payment>, <order>...}
           {'ORDER_STATE', status} | {'ORDER_NOT_FOUND'} | {'FENCED'}
  Faults   none
  Cost     O(orders of the payment)
]]
--- @include call_begin
--- @include payment_load
--- @include payment_revive
--- @include outbox_append
--- @include payment_reply

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
local order_id = string.sub(KEYS[3], #call.prefix + 7)
local status = redis.call('HGET', KEYS[3], 'status')
if not status then
  return { 'ORDER_NOT_FOUND' }
end
if status == 'refunded' then
  return payment_reply(call, 'UNCHANGED', payment_id)
end
if status ~= 'refund_due' then
  return { 'ORDER_STATE', status }
end
local payment = payment_load(call, payment_id)
local payment_status = 'refunded'
for _, order in ipairs(payment.list) do
  if order.id ~= order_id and order.status ~= 'refunded' then
    payment_status = 'refund_due'
  end
end

payment_revive(call, payment)
-- Written once before the event, so that the end of order and payment cannot be refused after it.
redis.call('HSET', KEYS[2], 'intent', payment_status)
local position = outbox_append(
  call, 'order_refunded', { order_id = order_id, payment_status = payment_status }, payment_id, 0
)
redis.call('HSET', KEYS[3], 'status', 'refunded')
redis.call('HSET', KEYS[2], 'status', payment_status, 'event', position)
return payment_reply(call, 'OK', payment_id)
