--[[
  rebuild_payments: put pending payments back from the record, with their holds, indexes and counters.
  Why atomic: an order's units are counted in the step that records who holds them.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2...] payment hashes       {ns:p}:payment:<payment_id>
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4...] per payment: JSON list of lists: the payment's field names and values, then per order its
           order_id and its field names and values
  Returns  {'OK'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the orders * log holds)
]]
--- @include call_begin
--- @include int
--- @include hash_set
--- @include payment_load
--- @include period_note
--- @include holding_refresh
--- @include sku_count
--- @include cart_load
--- @include cart_save

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if #ARGV - 3 ~= #KEYS - 1 then
  return redis.error_reply('CARTBADARG as many payments as keys')
end

local function put_back(payment_key, lists)
  for index = 2, #lists do
    local order_id = table.remove(lists[index], 1)
    hash_set(call.prefix .. 'order:' .. order_id, lists[index])
  end
  hash_set(payment_key, lists[1])
  local payment = payment_load(call, string.sub(payment_key, #call.prefix + 9))
  -- Not beyond what a hold may last: a later expiry means that the clock stepped back, and would be due at once.
  local latest = call.now + call.lifetime
  if tonumber(payment.expires) > latest then
    payment.expires = int(latest)
    redis.call('HSET', payment_key, 'expires', payment.expires)
  end
  local is_guest = string.sub(payment.cart, 1, 2) == 'g.'
  local waiting = 0
  for _, order in ipairs(payment.list) do
    for _, line in ipairs(order.lines) do
      if line.held > 0 then
        sku_count(call.prefix .. 'sku:' .. line.sku, line.held, is_guest and line.held or 0, 0, 0)
        redis.call('ZADD', call.prefix .. 'holds:' .. line.sku, payment.expires, 'o\31' .. order.id)
        holding_refresh(call, line.sku)
        waiting = waiting + line.held
      end
    end
  end
  redis.call('ZADD', call.prefix .. 'due', payment.expires, payment.id)
  redis.call('ZADD', call.prefix .. 'orders:' .. payment.cart, payment.created, payment.id)
  if waiting > 0 then
    local cart = cart_load(call, payment.cart)
    if not cart.exists then
      cart.created, cart.updated = tonumber(payment.created), tonumber(payment.created)
      cart.ttl = tonumber(payment.cart_ttl)
    end
    cart.waiting = cart.waiting + waiting
    for _, order in ipairs(payment.list) do
      for _, line in ipairs(order.lines) do
        if line.held > 0 then
          period_note(call, cart, line.sku, line.first, call.now, line.held)
        end
      end
    end
    cart_save(call, cart, nil)
  end
end

for index = 2, #KEYS do
  put_back(KEYS[index], cjson.decode(ARGV[index + 2]))
end
return { 'OK' }
