--[[
  hold_repair_index: take index entries out that nobody claims, and put a SKU where it belongs in `holding`.
  Touches no counter, and nothing at all of a SKU that is not there or has an entry whose holder cannot be read.
  Why atomic: a claim is looked for in the step that removes its entry.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  limit                  index entries looked at
  Returns  {'OK', changed} | {'FENCED'}
  Faults   CARTBADARG | CARTUNREADABLE
  Cost     O(limit)
]]
--- @include call_begin
--- @include int
--- @include hold_claim
--- @include holding_refresh

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

-- What is left of a SKU that is gone has no bounds, and gets none.
if redis.call('HEXISTS', KEYS[2], 'on_hand') == 0 then
  return { 'OK', '0' }
end
local orphans = {}
for _, member in ipairs(redis.call('ZRANGE', holds_key, 0, limit - 1)) do
  local units = hold_claim(call, sku, member)
  if not units then
    return redis.error_reply('CARTUNREADABLE the holder of ' .. string.gsub(member, '\31', ' '))
  end
  if units == 0 then
    orphans[#orphans + 1] = member
  end
end
local function bounds()
  local score, state = redis.call('ZSCORE', call.prefix .. 'holding', sku), redis.call('HGET', KEYS[2], 'hold_state')
  return (score or '') .. ' ' .. (state or '')
end
local before = bounds()

local changed = #orphans
for _, member in ipairs(orphans) do
  redis.call('ZREM', holds_key, member)
end
holding_refresh(call, sku)
if bounds() ~= before then
  changed = changed + 1
end
return { 'OK', int(changed) }
