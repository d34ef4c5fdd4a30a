--[[
  hold_repair_claim: index a hold that a cart line or a pending order claims and the SKU's index lacks.
  Why atomic: the claim is read in the step that indexes it, so no hold that was given back meanwhile comes
  back. Only when the SKU's counter has room for it beside all that is indexed: once indexed it falls due and
  is taken out of the counter, and what was never counted must not be.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart or order hash     {ns:p}:cart:<cart_id> or {ns:p}:order:<order_id>
  KEYS[3]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  line_id                of a cart; nothing is asked of an order
  ARGV[5]  limit                  index entries looked at; with more the proof is not made
  Returns  {'OK', indexed} | {'FENCED'}
  Faults   CARTBADARG | CARTUNREADABLE
  Cost     O(limit)
]]
--- @include call_begin
--- @include cart_load
--- @include hold_claim
--- @include hold_index
--- @include sku_load
--- @include sku_save

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local limit = tonumber(ARGV[5])
if not limit then
  return redis.error_reply('CARTBADARG limit')
end
local sku = string.sub(KEYS[3], #call.prefix + 5)
local stock = sku_load(call, sku)
local cart_id = string.match(KEYS[2], '^cart:(.+)$', #call.prefix + 1)

-- Where the hold ends, as its holder has it: a lower bound for a line, as the index keeps it.
local member, expires
if cart_id then
  local line = cart_load(call, cart_id).lines[ARGV[4]]
  member, expires = 'c\31' .. cart_id .. '\31' .. ARGV[4], line and line.indexed
else
  local order_id = string.sub(KEYS[2], #call.prefix + 7)
  local payment_id = redis.call('HGET', KEYS[2], 'payment')
  local payment = payment_id and redis.call('HMGET', call.prefix .. 'payment:' .. payment_id, 'status', 'expires')
  member, expires = 'o\31' .. order_id, payment and payment[1] == 'pending' and tonumber(payment[2])
end
local holds_key = call.prefix .. 'holds:' .. sku
local units, is_guest = hold_claim(call, sku, member)
if not units then
  return redis.error_reply('CARTUNREADABLE ' .. KEYS[2])
end
if not stock or not expires or units == 0 or redis.call('ZSCORE', holds_key, member) then
  return { 'OK', '0' }
end
local held, guest_held = units, is_guest and units or 0
local members = redis.call('ZRANGE', holds_key, 0, limit)
for _, other in ipairs(members) do
  local its_units, its_guest = hold_claim(call, sku, other)
  if not its_units then
    return redis.error_reply('CARTUNREADABLE the holder of ' .. string.gsub(other, '\31', ' '))
  end
  held = held + its_units
  guest_held = guest_held + (its_guest and its_units or 0)
end
if #members > limit or held > stock.held or guest_held > stock.guest_held then
  return { 'OK', '0' }
end

hold_index(call.prefix, stock, member, expires)
sku_save(call, stock)
return { 'OK', '1' }
