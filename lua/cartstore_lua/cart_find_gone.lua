--[[
  cart_find_gone: carts of a slice of `activity`, oldest change first, that are not kept any more. Writes nothing.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  activity index         {ns:p}:activity
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  offset                 of the slice
  ARGV[5]  count                  of the slice
  Returns  {'OK', looked at, epoch, cart_id...} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(count)
]]
--- @include call_begin
--- @include int

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local offset, count = tonumber(ARGV[4]), tonumber(ARGV[5])
if not offset or not count then
  return redis.error_reply('CARTBADARG offset or count')
end
local found = redis.call('ZRANGE', KEYS[2], int(offset), int(offset + count - 1))
local reply = { 'OK', int(#found), call.epoch }
for _, cart_id in ipairs(found) do
  if redis.call('EXISTS', call.prefix .. 'cart:' .. cart_id) == 0 then
    reply[#reply + 1] = cart_id
  end
end
return reply
