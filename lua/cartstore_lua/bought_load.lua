--[[
  bought_load: count orders that the record has against the purchase limit of one SKU, and those that it does not count no
  more.
  Why atomic: an order may be released, or paid late, after the record was read. What the engine keeps of an order says
  which it is, in the step that counts it.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it, or the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  mode                   'load'; or, of a SKU whose purchases are all loaded, 'repair' and 'look', which writes
                                  nothing
  ARGV[5]  since                  ms; all orders that began after it are named when the last page is loaded
  ARGV[6]  recorded               ms; the record had every order that began until then. '' unless this is the last page
  ARGV[7...] per order: JSON list of order_id, payment_id, ms when it began, units, '1' if the record counts them,
           identities of its customer
  Returns  {'OK', entries that differed} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(orders)
]]
--- @include call_begin
--- @include bought_add
--- @include bought_key
--- @include int
--- @include sku_load

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local mode, since = ARGV[4], tonumber(ARGV[5])
if not since or (mode ~= 'load' and mode ~= 'repair' and mode ~= 'look') then
  return redis.error_reply('CARTBADARG mode or since')
end
local stock = sku_load(call, string.sub(KEYS[2], #call.prefix + 5))
if not stock or not stock.limit_units then
  return { 'OK', '0' }
end
local oldest = call.now - stock.limit_window
local known_since = tonumber(redis.call('HGET', KEYS[2], 'bought_since') or '')
if mode ~= 'load' and not (known_since and known_since <= oldest) then
  return { 'OK', '0' }
end

local counting = { pending = true, paid = true }
local not_counting = { released = true, refund_due = true }
local changed = 0
for index = 7, #ARGV do
  local order = cjson.decode(ARGV[index])
  local order_id, at, units = order[1], tonumber(order[3]), tonumber(order[4])
  local status = redis.call('HGET', call.prefix .. 'order:' .. order_id, 'status')
  local counts = counting[status] or (order[5] == '1' and not not_counting[status])
  if at > oldest then
    for place = 6, #order do
      local key = bought_key(call, stock.sku, order[place])
      local is_counted = redis.call('HGET', key, order_id) == int(at) .. ' ' .. int(units)
      if counts and not is_counted then
        changed = changed + 1
        if mode ~= 'look' then
          bought_add(call, stock, order[place], order_id, at, units)
        end
      elseif not counts and redis.call('HEXISTS', key, order_id) == 1 then
        changed = changed + 1
        if mode ~= 'look' then
          redis.call('HDEL', key, order_id)
        end
      end
    end
    -- It may still be released, or paid late.
    local payment_key = call.prefix .. 'payment:' .. order[2]
    if mode ~= 'look' and redis.call('HEXISTS', payment_key, 'status') == 1 then
      redis.call('HSET', payment_key, 'buyer', table.concat(order, ' ', 6))
    end
  end
end
local recorded = tonumber(ARGV[6])
-- The window may have become longer, or the limit have been taken away and set again, since the record was read.
if recorded and mode == 'load' and since <= oldest and (known_since or 0) <= recorded then
  redis.call('HSET', KEYS[2], 'bought_since', int(math.min(since, known_since or since)))
  redis.call('ZREM', call.prefix .. 'unloaded', stock.sku)
end
return { 'OK', int(changed) }
