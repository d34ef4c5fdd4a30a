--[[
  order_void: undo a checkout that the engine cut off before its event: the record does not know it, and nobody was told
  of it. Its orders go, and lines that left the cart return to it, unheld. The SKUs' counters are left to whoever adds
  up all claims: they are too high now, and never too low.
  Why atomic: a checkout under the same key may begin in the next instant.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  cart lifetime          ms, for a cart that lost its own
  ARGV[5]  position               of the last event that the record had when it did not know the payment
  ARGV[6]  limit                  later events looked at; with more nothing is undone
  Returns  {'OK', orders that went} | {'FENCED'}
  Faults   CARTUNREADABLE
  Cost     O(lines of the orders and of the cart + limit)
]]
--- @include call_begin
--- @include int
--- @include order_load
--- @include order_lines_return
--- @include cart_load
--- @include cart_recount
--- @include cart_save
--- @include holding_refresh

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
if redis.call('EXISTS', KEYS[2]) == 1 then
  return { 'OK', '0' }
end
-- The buyer may have repeated the checkout since the record was asked, and have been cut off behind its event.
local limit = tonumber(ARGV[6])
local later = redis.call('XRANGE', call.prefix .. 'outbox', '(' .. ARGV[5], '+', 'COUNT', limit)
for _, entry in ipairs(later) do
  for index = 1, #entry[2], 2 do
    if entry[2][index] == 'subject' and entry[2][index + 1] == payment_id then
      return { 'OK', '0' }
    end
  end
end
if #later == limit then
  return { 'OK', '0' }
end
local orders = {}
repeat
  local order = order_load(call, 'o' .. string.sub(payment_id, 2) .. '-' .. int(#orders + 1))
  if order and (order.status ~= 'pending' or not order.cart or not order.currency) then
    return redis.error_reply('CARTUNREADABLE ' .. call.prefix .. 'order:' .. order.id)
  end
  orders[#orders + 1] = order
until not order
if #orders == 0 then
  return { 'OK', '0' }
end

-- Only lines that are not in the cart: the others never left it, or the buyer has put them there since.
local cart_id = orders[1].cart
local present = cart_load(call, cart_id).lines
for _, order in ipairs(orders) do
  order.returning = {}
  for _, line in ipairs(order.lines) do
    if not present[line.line_id] then
      order.returning[#order.returning + 1] = line
    end
  end
end
for _, order in ipairs(orders) do
  redis.call('UNLINK', call.prefix .. 'order:' .. order.id)
  for _, line in ipairs(order.lines) do
    if line.held > 0 then
      redis.call('ZREM', call.prefix .. 'holds:' .. line.sku, 'o\31' .. order.id)
      holding_refresh(call, line.sku)
    end
  end
  order.lines = order.returning
end
local cart = order_lines_return(
  call, { cart = cart_id, currency = orders[1].currency, cart_ttl = ARGV[4], list = orders }, 0
)
cart_recount(call, cart)
cart_save(call, cart, call.now)
return { 'OK', int(#orders) }
