--[[
  hold_release_due: release due holds, earliest SKUs first: the sweeper's step. Everything that needs exact
  availability releases on its own; this keeps product lists and idle SKUs fresh.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  release limit          due holds released at most
  Returns  {'OK', looked at, more, released} | {'STORE_FULL'} | {'FENCED'}
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

local looked, released = 0, 0
local skus = redis.call('ZRANGEBYSCORE', call.prefix .. 'holding', '-inf', call.now, 'LIMIT', 0, limit)
for _, sku in ipairs(skus) do
  if looked >= limit then
    break
  end
  local count, _, gone = hold_release_sku(call, sku, limit - looked)
  looked, released = looked + count, released + gone
end
local more = redis.call('ZCOUNT', call.prefix .. 'holding', '-inf', call.now)
return { 'OK', looked, more, released }
