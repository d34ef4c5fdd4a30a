--[[
  hold_extend: try to hold lapsed lines again and, if asked, extend the holds that have not lapsed.
  Why atomic: a line is held again only with units that nobody else has in that instant.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  terms                  model.CartTerms, packed
  ARGV[5]  extend                 '1' or '0'
  ARGV[6]  release limit          due holds released at most, over all SKUs
  ARGV[7...] line_ids             none: all lines
  Returns  {'OK', held lines} | {'ITEM_NOT_FOUND', line_id} | {'AGAIN'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the cart * log holds)
]]
--- @include call_begin
--- @include terms_decode
--- @include hold_release_if_due
--- @include cart_load
--- @include line_order
--- @include line_sku
--- @include sku_load
--- @include sku_has_due
--- @include owner_release_due
--- @include hold_retake
--- @include hold_take
--- @include cart_save

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local terms, extend, limit = terms_decode(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6])
if not terms or not limit then
  return redis.error_reply('CARTBADARG terms or release limit')
end

local cart_id = string.sub(KEYS[2], #call.prefix + 6)
local cart = cart_load(call, cart_id)
local line_ids = {}
for index = 7, #ARGV do
  line_ids[#line_ids + 1] = ARGV[index]
end
if #line_ids == 0 then
  line_ids = line_order(cart)
end
local released = {}
for _, line_id in ipairs(line_ids) do
  if not cart.lines[line_id] then
    return { 'ITEM_NOT_FOUND', line_id }
  end
  local sku = line_sku(line_id)
  if not released[sku] then
    released[sku] = true
    local count, more_due = hold_release_if_due(call, sku, math.max(1, limit))
    if more_due then
      return { 'AGAIN' }
    end
    limit = limit - count
  end
end

cart = cart_load(call, cart_id)
if cart.held + cart.waiting > 0 and owner_release_due(call, cart) > 0 then
  cart = cart_load(call, cart_id)
end
local took = 0
for _, line_id in ipairs(line_ids) do
  local line, stock = cart.lines[line_id], sku_load(call, line_sku(line_id))
  if hold_retake(call, cart, line_id, terms) then
    took = took + 1
  elseif (line.quantity > line.held or line.expires <= call.now) and stock and sku_has_due(call, stock) then
    -- Units that are due may be this line's: those of others, or its own, which lapsed behind a crowd.
    return { 'AGAIN' }
  end
  if extend and stock and line.held > 0 and line.expires > call.now then
    hold_take(call, cart, stock, line_id, line, line.held, terms, false)
    cart.changed[line_id] = true
  end
end
if next(cart.changed) then
  if cart.ttl == 0 then
    cart.ttl = terms.cart_ttl
  end
  cart_save(call, cart, nil)
end
return { 'OK', took }
