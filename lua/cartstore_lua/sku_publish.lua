--[[
  sku_publish: set the catalog fields that scripts need of one SKU. A frozen one stays inactive (sku_freeze).
  Why atomic: a late publisher of an older revision must not undo a newer one.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  revision               integer
  ARGV[5]  fields                 packed as sku_load reads them
  ARGV[6]  seller
  ARGV[7]  product_id
  Returns  {'OK', published} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(1)
]]
--- @include call_begin
--- @include hold_state_encode
--- @include int

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local revision = tonumber(ARGV[4])
if not revision then
  return redis.error_reply('CARTBADARG revision')
end

local known = redis.call('HGET', KEYS[2], 'revision')
if known and tonumber(known) >= revision then
  return { 'OK', '0' }
end
local fields = ARGV[5]
local sku = string.sub(KEYS[2], #call.prefix + 5)
local window = tonumber(string.match(fields, ' limit=%d+/(%d+)') or '')
local published = known and redis.call('HMGET', KEYS[2], 'fields', 'bought_since') or {}
local window_before = tonumber(string.match(published[1] or '', ' limit=%d+/(%d+)') or '')
if redis.call('HEXISTS', KEYS[2], 'frozen') == 1 then
  local before, active, after = string.match(fields, '^(%d+ %d+ %u+ )([01])(.*)$')
  redis.call('HSET', KEYS[2], 'frozen', active)
  fields = before .. '0' .. after
end
if not known then
  -- In the order in which mutations want them: the engine looks through a small hash from its start.
  redis.call('HSET', KEYS[2], 'fields', fields)
  local counters = { 'on_hand', 0, 'held', 0, 'hold_state', hold_state_encode(0, 0, 0, 0), 'sold', 0, 'backordered', 0 }
  for index = 1, #counters, 2 do
    redis.call('HSETNX', KEYS[2], counters[index], counters[index + 1])
  end
end
redis.call('HSET', KEYS[2], 'fields', fields, 'revision', ARGV[4], 'seller', ARGV[6], 'product', ARGV[7])

-- Since when purchases are known: those before are loaded from the record (bought_load), which counts them from then on.
if window then
  local since = 0
  if known and not window_before then
    since = call.now
  elseif known then
    since = tonumber(published[2] or call.now)
    if window > window_before then
      -- Purchases older than the window of before have expired.
      since = math.max(since, call.now - window_before)
    end
  end
  redis.call('HSET', KEYS[2], 'bought_since', int(since))
  if since > call.now - window then
    redis.call('ZADD', call.prefix .. 'unloaded', int(since), sku)
  end
elseif window_before then
  redis.call('HDEL', KEYS[2], 'bought_since')
  redis.call('ZREM', call.prefix .. 'unloaded', sku)
end
return { 'OK', '1' }
