--[[
  stock_repair_held: set `held` and `guest_held` to what a visit to all carts and orders counted, if nothing
  touched the SKU since before that visit began.
  Why atomic: every change of who holds how much moves `rev`, so a buyer who took, gave back or moved a hold
  during the visit has moved it, and nothing is repaired.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  epoch                  of the gate when the visit began: a rebuild since has counted anew
  ARGV[5]  rev                    before the visit
  ARGV[6]  held                   units, as they were then
  ARGV[7]  guest_held             units, as they were then
  ARGV[8]  counted held           units
  ARGV[9]  counted guest_held     units
  Returns  {'OK', repaired} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(1)
]]
--- @include call_begin
--- @include int
--- @include outbox_append

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local held, guest_held = tonumber(ARGV[8]), tonumber(ARGV[9])
if not held or not guest_held or held < 0 or guest_held < 0 or guest_held > held then
  return redis.error_reply('CARTBADARG counted')
end
local read = redis.call('HMGET', KEYS[2], 'rev', 'held', 'guest_held')
if call.epoch ~= ARGV[4] or read[1] ~= ARGV[5] or read[2] ~= ARGV[6] or read[3] ~= ARGV[7] then
  return { 'OK', '0' }
end

local sku = string.sub(KEYS[2], #call.prefix + 5)
redis.call('HSET', KEYS[2], 'held', int(held), 'guest_held', int(guest_held))
redis.call('HINCRBY', KEYS[2], 'rev', 1)
outbox_append(call, 'held_repaired', {
  sku = sku, held = int(held), delta = int(held - tonumber(read[2])), guest_held = int(guest_held),
  guest_delta = int(guest_held - tonumber(read[3])), rev = read[1],
}, '', 0)
return { 'OK', '1' }
