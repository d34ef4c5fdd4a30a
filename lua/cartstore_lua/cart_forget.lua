--[[
  cart_forget: take carts that are gone out of `activity`. A cart that came back meanwhile stays in.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  activity index         {ns:p}:activity
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4...] cart_ids
  Returns  {'OK', <cart_id that is gone>...} | {'FENCED'}
  Faults   none
  Cost     O(carts)
]]
--- @include call_begin

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end

local reply = { 'OK' }
for index = 4, #ARGV do
  if redis.call('EXISTS', call.prefix .. 'cart:' .. ARGV[index]) == 0 then
    redis.call('ZREM', KEYS[2], ARGV[index])
    reply[#reply + 1] = ARGV[index]
  end
end
return reply
