--[[
  payment_settle: the money arrived, for all orders of a payment at once.
  Why atomic: exactly one of settle, cancel and expiry takes a pending payment to its end, and the units
  leave on_hand in the step that makes the orders paid.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  release limit          due holds released at most, over all SKUs
  ARGV[5]  unpaid kept            ms after its checkout from which a released payment is not paid any more, 0 for never
  Returns  {'OK', now, position, <payment>, <order>...} | {'UNCHANGED', now, position, <payment>, <order>...}
           {'PAYMENT_NOT_FOUND'} | {'AGAIN'} | {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the orders * log holds)
]]
--- @include call_begin
--- @include payment_load
--- @include payment_sales
--- @include payment_sell
--- @include hold_release_if_due
--- @include cart_load
--- @include sku_load
--- @include sku_has_due
--- @include payment_reply

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local limit, unpaid_kept = tonumber(ARGV[4]), tonumber(ARGV[5])
if not limit then
  return redis.error_reply('CARTBADARG release limit')
end
if not unpaid_kept then
  return redis.error_reply('CARTBADARG unpaid kept')
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
local payment = payment_load(call, payment_id)
if not payment then
  return { 'PAYMENT_NOT_FOUND' }
end
if payment.status ~= 'pending' and payment.status ~= 'expired' and payment.status ~= 'cancelled' then
  return payment_reply(call, 'UNCHANGED', payment_id)
end
if call.disk == 'out' then
  return { 'STORE_FULL' }
end
local was_pending = payment.status == 'pending'

local sales, needs = payment_sales(payment)

-- A late payment: the units were given back. They are taken again if nobody has them, and the lines that
-- returned to the cart leave it, with the holds they may have got there meanwhile.
local outcome = 'paid'
local cart
local releases = {}
for _, sale in ipairs(sales) do
  -- A pending order's own holds must not fall due here; a backorder has none, but wants what lapsed of others.
  if not was_pending or sale.quantity > sale.held then
    releases[sale.sku] = true
  end
end
for sku in pairs(releases) do
  local released, more_due = hold_release_if_due(call, sku, math.max(1, limit))
  if more_due then
    return { 'AGAIN' }
  end
  limit = limit - released
end
if not was_pending then
  -- The record has removed, or may remove, the address that the goods would go to.
  local kept_until = tonumber(payment.created) + unpaid_kept
  if payment.redacted or (unpaid_kept > 0 and call.now >= kept_until) then
    outcome = 'refund_due'
  end
  cart = cart_load(call, payment.cart)
  local own = {}
  for _, order in ipairs(payment.list) do
    for _, line in ipairs(order.lines) do
      local returned = cart.lines[line.line_id]
      if returned and line.mode == 'held' then
        own[line.sku] = (own[line.sku] or 0) + math.min(returned.held, line.quantity)
      end
    end
  end
  for sku, units in pairs(needs) do
    local stock = sku_load(call, sku)
    if not stock or units > stock.on_hand - stock.held + (own[sku] or 0) then
      if stock and sku_has_due(call, stock) then
        return { 'AGAIN' }
      end
      outcome = 'refund_due'
    end
  end
end

payment_sell(call, payment, sales, cart, outcome)
return payment_reply(call, 'OK', payment_id)
