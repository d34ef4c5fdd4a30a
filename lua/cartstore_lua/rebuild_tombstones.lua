--[[
  rebuild_tombstones: put terminal payments of the last day back from the record, so that a repeated checkout
  finds what its key began, also while the database is away. They hold nothing and are in no index.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2...] payment hashes       {ns:p}:payment:<payment_id>
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  tombstone              ms
  ARGV[5...] per payment: JSON list of lists: the payment's field names and values, then per order its
           order_id and its field names and values
  Returns  {'OK'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the orders)
]]
--- @include call_begin
--- @include hash_set

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if #ARGV - 4 ~= #KEYS - 1 then
  return redis.error_reply('CARTBADARG as many payments as keys')
end

for index = 2, #KEYS do
  local lists = cjson.decode(ARGV[index + 3])
  for place = 2, #lists do
    local order_key = call.prefix .. 'order:' .. table.remove(lists[place], 1)
    hash_set(order_key, lists[place])
    redis.call('PEXPIRE', order_key, ARGV[4])
  end
  hash_set(KEYS[index], lists[1])
  redis.call('PEXPIRE', KEYS[index], ARGV[4])
end
return { 'OK' }
