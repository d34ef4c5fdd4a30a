--[[
  payment_reattach: give orders their payment back that the engine cut off between the event of their checkout and the
  payment. The record has both. Does nothing when the payment is kept, or one of its orders is not.
  Why atomic: the orders claim their units, and their window ends, from the same instant on.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  fields                 JSON list of the payment's field names and values; its status is pending
  Returns  {'OK', reattached} | {'FENCED'}
  Faults   none
  Cost     O(orders)
]]
--- @include call_begin
--- @include hash_set

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  return { 'OK', '0' }
end
local flat = cjson.decode(ARGV[4])
local fields = {}
for index = 1, #flat, 2 do
  fields[flat[index]] = flat[index + 1]
end
for order_id in string.gmatch(fields.orders, '%S+') do
  if redis.call('HGET', call.prefix .. 'order:' .. order_id, 'status') ~= 'pending' then
    return { 'OK', '0' }
  end
end

hash_set(KEYS[2], flat)
redis.call('ZADD', call.prefix .. 'due', fields.expires, fields.id)
redis.call('ZADD', call.prefix .. 'orders:' .. fields.cart, fields.created, fields.id)
return { 'OK', '1' }
