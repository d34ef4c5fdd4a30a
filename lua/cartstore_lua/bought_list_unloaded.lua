--[[
  bought_list_unloaded: SKUs with a purchase limit whose earlier purchases have to be loaded from the record.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  limit                  SKUs named at most
  Returns  {'OK', now, position of the last event, <sku, window>...} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(limit)
]]
--- @include call_begin
--- @include int
--- @include outbox_last

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local limit = tonumber(ARGV[4])
if not limit or limit < 1 then
  return redis.error_reply('CARTBADARG limit')
end

local reply = { 'OK', int(call.now), string.match(outbox_last(call.prefix).name, '^%S*') }
for _, sku in ipairs(redis.call('ZRANGE', call.prefix .. 'unloaded', 0, limit - 1)) do
  local fields = redis.call('HGET', call.prefix .. 'sku:' .. sku, 'fields') or ''
  reply[#reply + 1] = sku
  reply[#reply + 1] = string.match(fields, ' limit=%d+/(%d+)') or '0'
end
return reply
