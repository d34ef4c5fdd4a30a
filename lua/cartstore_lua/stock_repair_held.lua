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
--- @include backorder_fill
--- @include call_begin
--- @include hold_state_decode
--- @include hold_state_encode
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
local read = redis.call('HMGET', KEYS[2], 'held', 'hold_state', 'on_hand', 'backordered')
if call.epoch ~= ARGV[4] or read[1] ~= ARGV[6] or not read[2] then
  return { 'OK', '0' }
end
local guest_held_before, rev, earliest, latest = hold_state_decode(read[2])
if int(rev) ~= ARGV[5] or int(guest_held_before) ~= ARGV[7] then
  return { 'OK', '0' }
end

local sku = string.sub(KEYS[2], #call.prefix + 5)
local on_hand, owed = tonumber(read[3] or '') or 0, tonumber(read[4] or '') or 0
-- What nobody holds serves paid backorders first, as if its holder had given it back.
local filled = backorder_fill(call, sku, on_hand, held, owed, tonumber(read[1]) - held)
redis.call(
  'HSET', KEYS[2], 'held', int(held), 'hold_state', hold_state_encode(guest_held, rev + 1, earliest, latest),
  'on_hand', int(on_hand - filled), 'backordered', int(owed - filled)
)
outbox_append(call, 'held_repaired', {
  sku = sku, held = int(held), delta = int(held - tonumber(read[1])), guest_held = int(guest_held),
  guest_delta = int(guest_held - guest_held_before), rev = ARGV[5],
}, '', 0)
return { 'OK', '1' }
