--[[
  hold_release: release due holds and orders of one SKU, for a caller that was told that some are due.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  release limit          due holds released at most
  Returns  {'OK', looked at} | {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(limit * log holds)
]]
--- @include call_begin
--- @include hold_release_sku

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if call.disk == 'out' then
  return { 'STORE_FULL' }
end
local limit = tonumber(ARGV[4])
if not limit then
  return redis.error_reply('CARTBADARG release limit')
end
local looked = hold_release_sku(call, string.sub(KEYS[2], #call.prefix + 5), limit)
return { 'OK', looked }
