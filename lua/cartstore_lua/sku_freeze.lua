--[[
  sku_freeze: stop the sale of a SKU until an operator lets it go on, or let it go on.
  A frozen SKU is inactive to every script, whatever the catalog says; what it said is kept in `frozen`, and
  sku_publish keeps it up. Holds and payments of it go on: their units are taken already.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  freeze                 '1' or '0'
  Returns  {'OK', changed} | {'FENCED'}
  Faults   none
  Cost     O(1)
]]
--- @include call_begin

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local read = redis.call('HMGET', KEYS[2], 'frozen', 'fields')
local is_frozen = read[1] and true or false
if is_frozen == (ARGV[4] == '1') then
  return { 'OK', '0' }
end

local before, active, after = string.match(read[2] or '', '^(%d+ %d+ %u+ )([01])(.*)$')
if before then
  redis.call('HSET', KEYS[2], 'fields', before .. (is_frozen and read[1] or '0') .. after)
end
if is_frozen then
  redis.call('HDEL', KEYS[2], 'frozen')
else
  -- A SKU that was never published is frozen from its first publication on.
  redis.call('HSET', KEYS[2], 'frozen', active or '1')
end
return { 'OK', '1' }
