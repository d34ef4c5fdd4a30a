--[[
  stock_repair_held: move `held` by a delta, if nothing touched the SKU since it was audited.
  Why atomic: a buyer who took a hold between audit and repair has moved `rev`, and nothing is repaired.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  rev                    as audited
  ARGV[5]  delta                  units
  Returns  {'OK', moved} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(1)
]]
--- @include call_begin
--- @include int

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local delta = tonumber(ARGV[5])
if not delta then
  return redis.error_reply('CARTBADARG delta')
end
local read = redis.call('HMGET', KEYS[2], 'rev', 'held')
if read[1] ~= ARGV[4] or tonumber(read[2]) + delta < 0 then
  return { 'OK', '0' }
end

redis.call('HINCRBY', KEYS[2], 'held', int(delta))
redis.call('HINCRBY', KEYS[2], 'rev', 1)
return { 'OK', '1' }
