--[[
  payment_list: ids of a cart's payments that the engine keeps, newest first.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  orders index           {ns:p}:orders:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', payment_id...} | {'FENCED'}
  Faults   none
  Cost     O(payments of the cart)
]]
--- @include call_begin

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local reply = redis.call('ZREVRANGE', KEYS[2], 0, -1)
table.insert(reply, 1, 'OK')
return reply
