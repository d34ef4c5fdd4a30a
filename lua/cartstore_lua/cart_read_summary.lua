--[[
  cart_read_summary: the running totals of a cart, at the cost of one hash read.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', version, lines, units, subtotal, currency} | {'FENCED'}
  Faults   none
  Cost     O(1)
]]
--- @include call_begin
--- @include cart_decode

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local cart = cart_decode(call, '', redis.call('HGET', KEYS[2], 'a'))
return { 'OK', cart.version, cart.count, cart.units, cart.subtotal, cart.currency }
