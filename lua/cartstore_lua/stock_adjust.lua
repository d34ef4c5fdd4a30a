--[[
  stock_adjust: add units to on_hand or take them away, once per reference.
  Why atomic: the check against what is held, the counter, the event and the reference are one change.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  KEYS[3]  reference hash         {ns:p}:reference:<sku>:<reference>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  how                    'by' adds the amount, 'to' moves on_hand to it
  ARGV[5]  amount                 integer, units
  ARGV[6]  expected on_hand       '' for none
  ARGV[7]  reason
  ARGV[8]  reference
  ARGV[9]  fingerprint            of the request
  ARGV[10] release limit          due holds released at most
  Returns  {'OK', delta, position, sku, policy, on_hand, held, sold, backordered}
           {'REPLAYED', ...the first OK reply} | {'PRODUCT_NOT_FOUND'} | {'STOCK_CONFLICT', why, on_hand, held}
           {'LIMIT_EXCEEDED', name, limit} | {'AGAIN'} | {'CUT_OFF'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(log holds)
]]
--- @include call_begin
--- @include int
--- @include hold_release_if_due
--- @include sku_count
--- @include sku_load
--- @include sku_has_due
--- @include outbox_append
--- @include outbox_last
--- @include stock_append

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local amount, limit = tonumber(ARGV[5]), tonumber(ARGV[10])
if not amount or not limit then
  return redis.error_reply('CARTBADARG amount or release limit')
end
local sku = string.sub(KEYS[2], #call.prefix + 5)

-- What comes behind the event: the counters, and the reply for whoever repeats the call. filled: how many of the units
-- go to paid backorders and never are on hand.
local function adjusted(delta, filled, position)
  sku_count(KEYS[2], 0, 0, delta - filled, -filled)
  local reply = { 'OK', int(delta), position }
  stock_append(reply, KEYS[2], sku)
  -- Kept without a TTL until the event is archived: until then only this key can tell a repeated call.
  redis.call('HSET', KEYS[3], 'fingerprint', ARGV[9], 'reply', cjson.encode(reply), 'event', position)
  return reply
end

local known = redis.call('HMGET', KEYS[3], 'fingerprint', 'reply', 'after', 'rev')
-- A reference without a reply is one whose adjustment was cut off, before its event or behind it. If the stream has the
-- event, only the counter and the reply are missing: the record would refuse another event of this reference.
if known[3] and not known[2] then
  local entry = redis.call('XRANGE', call.prefix .. 'outbox', '(' .. known[3], '+', 'COUNT', 1)[1]
  local fields = {}
  for index = 1, entry and #entry[2] or 0, 2 do
    fields[entry[2][index]] = entry[2][index + 1]
  end
  if fields.subject == KEYS[3] then
    if known[1] ~= ARGV[9] then
      return { 'STOCK_CONFLICT', 'reference', '', '' }
    end
    local body = cjson.decode(fields.body)
    local stock = sku_load(call, sku)
    -- Whether the counter was written is certain only while nothing else has moved.
    if not stock or int(stock.rev) ~= known[4] then
      return { 'CUT_OFF' }
    end
    return adjusted(tonumber(body.delta), tonumber(body.filled or 0), entry[1])
  end
end
if known[2] then
  if known[1] ~= ARGV[9] then
    return { 'STOCK_CONFLICT', 'reference', '', '' }
  end
  local reply = cjson.decode(known[2])
  reply[1] = 'REPLAYED'
  return reply
end
local _, more_due = hold_release_if_due(call, sku, limit)
if more_due then
  return { 'AGAIN' }
end
local read = redis.call('HMGET', KEYS[2], 'on_hand', 'held', 'backordered')
if not read[1] then
  return { 'PRODUCT_NOT_FOUND' }
end
local on_hand, held, owed = tonumber(read[1]), tonumber(read[2]), tonumber(read[3])
if ARGV[6] ~= '' and tonumber(ARGV[6]) ~= on_hand then
  return { 'STOCK_CONFLICT', 'expected', int(on_hand), int(held) }
end
local delta = ARGV[4] == 'to' and amount - on_hand or amount
local target = on_hand + delta
if target < 0 or (target < held and delta < 0) then
  if sku_has_due(call, sku_load(call, sku)) then
    return { 'AGAIN' }
  end
  return { 'STOCK_CONFLICT', 'held', int(on_hand), int(held) }
end
if target > 1099511627776 then
  return { 'LIMIT_EXCEEDED', 'on_hand', '1099511627776' }
end

-- Buyers who have paid for units that were not there get theirs before anybody else can hold them.
local filled = math.max(0, math.min(delta, owed))

-- Written once before the event, so that the reply cannot be refused after it, with the entry that the event follows.
local last = outbox_last(call.prefix)
redis.call(
  'HSET', KEYS[3], 'fingerprint', ARGV[9], 'after', string.match(last.name, '^%S+') or '0-0', 'rev',
  int(sku_load(call, sku).rev)
)
local position = outbox_append(call, 'stock_adjusted', {
  sku = sku, delta = int(delta), filled = int(filled), on_hand = int(target - filled), reason = ARGV[7],
  reference = ARGV[8], fingerprint = ARGV[9],
}, KEYS[3], 0)
return adjusted(delta, filled, position)
