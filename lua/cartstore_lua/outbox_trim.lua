--[[
  outbox_trim: forget events that PostgreSQL has, keeping the last applied one, and let what they were about
  age: a terminal payment and a stock reference stay for a day, so that repeated calls find them. That the key of a
  payment was used is noted for ever.
  Why atomic: identity and epoch are checked in the step that trims, so a late trim that was meant for
  another history removes nothing.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  outbox stream          {ns:p}:outbox
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  position               of the last applied event
  ARGV[5]  tombstone              ms
  ARGV[6]  limit                  events looked at
  Returns  {'OK', looked at} | {'DIVERGED'} | {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(limit)
]]
--- @include call_begin
--- @include int
--- @include used_place

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if call.disk == 'out' then
  return { 'STORE_FULL' }
end
local epoch, seq = string.match(ARGV[4], '^(%d+)-(%d+)$')
local limit = tonumber(ARGV[6])
if not epoch or not limit then
  return redis.error_reply('CARTBADARG position or limit')
end
epoch, seq = tonumber(epoch), tonumber(seq)
if not redis.call('XRANGE', KEYS[2], ARGV[4], ARGV[4])[1] then
  return { 'DIVERGED' }
end
local entries = redis.call('XRANGE', KEYS[2], '-', ARGV[4], 'COUNT', limit)
local until_id = ARGV[4]
if #entries == limit then
  until_id = entries[limit][1]
end
local terminal = { paid = true, expired = true, cancelled = true, refund_due = true, refunded = true }
local function field(entry, name)
  for index = 1, #entry[2], 2 do
    if entry[2][index] == name then
      return entry[2][index + 1]
    end
  end
  return ''
end

local function is_archived(position)
  local its_epoch, its_seq = string.match(position, '^(%d+)-(%d+)$')
  its_epoch, its_seq = tonumber(its_epoch), tonumber(its_seq)
  return its_epoch < epoch or (its_epoch == epoch and its_seq <= seq)
end
for _, entry in ipairs(entries) do
  local subject, kind = field(entry, 'subject'), field(entry, 'type')
  if kind == 'stock_adjusted' then
    redis.call('PEXPIRE', subject, ARGV[5])
  else
    local payment_key = call.prefix .. 'payment:' .. subject
    local payment = redis.call('HMGET', payment_key, 'status', 'event', 'orders', 'cart')
    if payment[1] and terminal[payment[1]] and is_archived(payment[2]) then
      redis.call('ZREM', call.prefix .. 'orders:' .. payment[4], subject)
      for order_id in string.gmatch(payment[3], '%S+') do
        redis.call('PEXPIRE', call.prefix .. 'order:' .. order_id, ARGV[5])
      end
      local used_key, member = used_place(call, subject)
      if used_key then
        redis.call('SADD', used_key, member)
      end
      redis.call('PEXPIRE', payment_key, ARGV[5])
    end
  end
end
redis.call('XTRIM', KEYS[2], 'MINID', until_id)
return { 'OK', int(#entries) }
