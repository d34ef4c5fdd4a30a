--[[
  hold_release_owner: release what is due of one owner, for a caller that met the limit of what may be held.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', released} | {'STORE_FULL'} | {'FENCED'}
  Faults   none
  Cost     O((lines + payments of the owner) * log holds)
]]
--- @include call_begin
--- @include cart_load
--- @include owner_release_due

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if call.disk == 'out' then
  return { 'STORE_FULL' }
end
local cart = cart_load(call, string.sub(KEYS[2], #call.prefix + 6))
return { 'OK', owner_release_due(call, cart) }
