--[[
  cart_dump: carts that changed after a change number, as they are stored, for their snapshots. Writes nothing.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  activity index         {ns:p}:activity
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  after                  change number; carts with a later one
  ARGV[5]  limit                  carts
  Returns  {'OK', now, epoch, <cart_id, change, hash>...} | {'FENCED'}
  Faults   none
  Cost     O(limit * lines of a cart)
]]
--- @include call_begin
--- @include int

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local reply = { 'OK', int(call.now), call.epoch }
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[4], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[5])
for index = 1, #found, 2 do
  reply[#reply + 1] = found[index]
  reply[#reply + 1] = found[index + 1]
  reply[#reply + 1] = redis.call('HGETALL', call.prefix .. 'cart:' .. found[index])
end
return reply
