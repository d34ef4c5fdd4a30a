--[[
  sku_audit: one SKU's counters beside what its index of holds claims, at one instant. Writes nothing.
  Why atomic: counter, index, claims and the last event's position are only comparable within one instant.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  limit                  index entries looked at
  Returns  {'OK', sku, policy, on_hand, held, sold, backordered, rev, revision, epoch, seq, recorded held,
           earliest, holding, whole, guest held, recorded guest held, gate's epoch, frozen, <orphan>...}
           {'NOTHING', epoch, seq, index entries, frozen} | {'FENCED'}
           epoch, seq: of the last event; holding: 0 also when the SKU's own bounds do not cover its index
  Faults   CARTBADARG | CARTUNREADABLE
  Cost     O(limit)
]]
--- @include call_begin
--- @include int
--- @include stock_append
--- @include hold_claim
--- @include hold_state_encode
--- @include sku_load

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local limit = tonumber(ARGV[4])
if not limit then
  return redis.error_reply('CARTBADARG limit')
end
local sku = string.sub(KEYS[2], #call.prefix + 5)
local holds_key = call.prefix .. 'holds:' .. sku
local last = redis.call('XREVRANGE', call.prefix .. 'outbox', '+', '-', 'COUNT', 1)
local gate = redis.call('HMGET', KEYS[1], 'epoch', 'seq')
local epoch, seq = gate[1], gate[2]
if last[1] then
  epoch, seq = string.match(last[1][1], '^(%d+)-(%d+)$')
end
local read = redis.call('HMGET', KEYS[2], 'revision', 'hold_state', 'frozen')
local revision, packed, frozen = read[1], read[2], read[3] and '1' or '0'
-- One that was frozen before it was ever published has that mark alone.
if redis.call('HLEN', KEYS[2]) == tonumber(frozen) then
  return { 'NOTHING', epoch, seq, redis.call('ZCARD', holds_key), frozen }
end
local is_readable = packed and #packed == #hold_state_encode(0, 0, 0, 0)
local stock = is_readable and sku_load(call, sku)
is_readable = stock and stock.policy
for _, name in ipairs({ 'revision', 'on_hand', 'held', 'sold', 'backordered' }) do
  is_readable = is_readable and tonumber(redis.call('HGET', KEYS[2], name) or '')
end
if not is_readable then
  return redis.error_reply('CARTUNREADABLE ' .. KEYS[2])
end

local members = redis.call('ZRANGE', holds_key, 0, limit)
local recorded, guest_recorded, orphans = 0, 0, {}
for index = 1, math.min(#members, limit) do
  local units, is_guest = hold_claim(call, sku, members[index])
  if not units then
    return redis.error_reply('CARTUNREADABLE the holder of ' .. string.gsub(members[index], '\31', ' '))
  end
  if units > 0 then
    recorded = recorded + units
    guest_recorded = guest_recorded + (is_guest and units or 0)
  else
    orphans[#orphans + 1] = members[index]
  end
end
local earliest = redis.call('ZRANGE', holds_key, 0, 0, 'WITHSCORES')
local latest = redis.call('ZRANGE', holds_key, -1, -1, 'WITHSCORES')
local holding = redis.call('ZSCORE', call.prefix .. 'holding', sku) or '0'
-- Bounds that do not cover the index hide due holds just as an absent entry in `holding` does.
local is_covered = earliest[2] and stock.earliest > 0
  and stock.earliest <= tonumber(earliest[2]) and stock.latest >= tonumber(latest[2])
if earliest[2] and not is_covered then
  holding = '0'
end

local reply = { 'OK' }
stock_append(reply, KEYS[2], sku)
for _, value in ipairs({
  int(stock.rev), revision, epoch, seq, int(recorded), earliest[2] or '0',
  holding, #members <= limit and '1' or '0', int(stock.guest_held), int(guest_recorded), call.epoch, frozen,
}) do
  reply[#reply + 1] = value
end
for _, member in ipairs(orphans) do
  reply[#reply + 1] = member
end
return reply
