--[[
  backorder_serve: free units of a SKU go to paid backorders, where both are there: after a rebuild, which takes holds
  again that others have, and for what a version before this one left side by side.
  Why atomic: nobody may hold a unit between the look and the counters.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', units} | {'FENCED'}
  Faults   none
  Cost     O(1)
]]
--- @include backorder_fill
--- @include call_begin
--- @include int
--- @include sku_count

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local read = redis.call('HMGET', KEYS[2], 'on_hand', 'held', 'backordered')
local on_hand, held, owed = tonumber(read[1] or ''), tonumber(read[2] or ''), tonumber(read[3] or '')
if not on_hand or not held or not owed then
  return { 'OK', '0' }
end
local filled = backorder_fill(call, string.sub(KEYS[2], #call.prefix + 5), on_hand, held, owed, on_hand - held)
if filled > 0 then
  sku_count(KEYS[2], 0, 0, -filled, -filled)
end
return { 'OK', int(filled) }
