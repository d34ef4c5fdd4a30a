--[[
  rebuild_stock: set a published SKU's counters to what the ledger says. `held` is not set: holds are taken
  again one by one.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  on_hand
  ARGV[5]  sold
  ARGV[6]  backordered
  Returns  {'OK'} | {'FENCED'}
  Faults   none
  Cost     O(1)
]]
--- @include call_begin

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end

redis.call('HSET', KEYS[2], 'on_hand', ARGV[4], 'sold', ARGV[5], 'backordered', ARGV[6])
redis.call('HINCRBY', KEYS[2], 'rev', 1)
return { 'OK' }
