--[[
  cart_repair_totals: set a cart's running totals to what its lines and its owner's pending orders add up to.
  Why atomic: the totals are made of what is read in the same step.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  cart lifetime          ms, for a cart that lost its own
  Returns  {'OK', repaired} | {'FENCED'}
  Faults   CARTUNREADABLE
  Cost     O(lines of the cart and of its pending orders)
]]
--- @include call_begin
--- @include cart_load
--- @include cart_recount
--- @include cart_save

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local cart = cart_load(call, string.sub(KEYS[2], #call.prefix + 6))
if not cart.exists or cart.is_damaged then
  return redis.error_reply('CARTUNREADABLE ' .. KEYS[2])
end
if not cart_recount(call, cart) then
  return { 'OK', '0' }
end
if cart.ttl == 0 then
  cart.ttl = tonumber(ARGV[4])
end
cart_save(call, cart, call.now)
return { 'OK', '1' }
