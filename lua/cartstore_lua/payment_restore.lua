--[[
  payment_restore: put a payment and its orders back from the record, so that a late settlement, a refund or
  a rebuild finds them. Does nothing when the payment is kept already.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  fields                 JSON list of the payment's field names and values
  ARGV[5]  tombstone              ms
  ARGV[6...] per order: JSON list, order_id first, then its field names and values
  Returns  {'OK', restored} | {'FENCED'}
  Faults   none
  Cost     O(lines of the orders)
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
for index = 6, #ARGV do
  local fields = cjson.decode(ARGV[index])
  local order_id = table.remove(fields, 1)
  hash_set(call.prefix .. 'order:' .. order_id, fields)
  redis.call('PEXPIRE', call.prefix .. 'order:' .. order_id, ARGV[5])
end
hash_set(KEYS[2], cjson.decode(ARGV[4]))
-- Restored for one late call and archived already: it ages from now unless that call changes it.
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return { 'OK', '1' }
