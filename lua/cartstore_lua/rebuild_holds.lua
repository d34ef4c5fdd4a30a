--[[
  rebuild_holds: take the holds of lines again that were held when their carts' snapshots were taken, in the order
  given. A line whose units are not there any more stays in its cart, unheld.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  terms of members       model.CartTerms, packed
  ARGV[5]  terms of guests        the same
  ARGV[6...] per line: cart_id, line_id
  Returns  {'OK', lines looked at, lines held} | {'DUE', sku} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the carts * log holds)
]]
--- @include call_begin
--- @include terms_decode
--- @include cart_load
--- @include cart_save
--- @include hold_retake
--- @include line_sku
--- @include sku_has_due
--- @include sku_load
--- @include sku_save

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local member_terms, guest_terms = terms_decode(ARGV[4]), terms_decode(ARGV[5])
if not member_terms or not guest_terms or #ARGV % 2 ~= 1 then
  return redis.error_reply('CARTBADARG terms or lines')
end

local carts = {}
local looked, took = 0, 0
for index = 6, #ARGV, 2 do
  local cart_id, line_id = ARGV[index], ARGV[index + 1]
  local stock = sku_load(call, line_sku(line_id))
  if stock and sku_has_due(call, stock) then
    -- An order whose window is over holds units that may be this line's.
    if looked == 0 then
      return { 'DUE', stock.sku }
    end
    break
  end
  local cart = carts[cart_id]
  if not cart then
    cart = cart_load(call, cart_id)
    carts[cart_id] = cart
  end
  if cart.lines[line_id] and hold_retake(call, cart, line_id, cart.is_guest and guest_terms or member_terms) then
    took = took + 1
  end
  looked = looked + 1
end

-- The counters once at the end, and not all of them beside every cart.
local skus = call.skus
call.skus = {}
for _, cart in pairs(carts) do
  if next(cart.changed) then
    cart_save(call, cart, nil)
  end
end
for _, stock in pairs(skus) do
  sku_save(call, stock)
end
return { 'OK', looked, took }
