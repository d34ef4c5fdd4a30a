--[[
  hold_extend: try to hold lapsed lines again and, if asked, extend the holds that have not lapsed.
  Why atomic: a line is held again only with units that nobody else has in that instant.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  terms                  model.CartTerms, packed
  ARGV[5]  if_match               version, '' for none
  ARGV[6]  idempotency key        '' for none
  ARGV[7]  fingerprint            of the request
  ARGV[8]  extend                 '1' or '0'
  ARGV[9]  release limit          due holds released at most, over all SKUs
  ARGV[10...] line_ids            none: all lines
  Returns  {'OK', created, now, version, lines, units, subtotal, currency}
           {'REPLAYED', ...the first OK reply} | {'IDEMPOTENCY_KEY_REUSED'} | {'VERSION_CONFLICT', version}
           {'ITEM_NOT_FOUND', line_id} | {'AGAIN'} | {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the cart * log holds)
]]
--- @include mutation_begin
--- @include version_differs
--- @include cart_release_due
--- @include line_order
--- @include line_sku
--- @include sku_load
--- @include sku_has_due
--- @include owner_release_due
--- @include hold_retake
--- @include hold_take
--- @include cart_save
--- @include mutation_reply
--- @include ring_remember

local call, cart_id, terms = mutation_begin(KEYS, ARGV)
if not call then
  return cart_id
end
local extends, limit = ARGV[8] == '1', tonumber(ARGV[9])
if not limit then
  return redis.error_reply('CARTBADARG release limit')
end

local cart, more_due = cart_release_due(call, cart_id, limit)
if more_due then
  return { 'AGAIN' }
end
if cart.held + cart.waiting > 0 and owner_release_due(call, cart) > 0 then
  cart = cart_load(call, cart_id)
end
if version_differs(cart, ARGV[5]) then
  return { 'VERSION_CONFLICT', cart.version }
end
local line_ids = {}
for index = 10, #ARGV do
  if not cart.lines[ARGV[index]] then
    return { 'ITEM_NOT_FOUND', ARGV[index] }
  end
  line_ids[#line_ids + 1] = ARGV[index]
end
if #ARGV < 10 then
  line_ids = line_order(cart)
end

for _, line_id in ipairs(line_ids) do
  local line, stock = cart.lines[line_id], sku_load(call, line_sku(line_id))
  if
    not hold_retake(call, cart, line_id, terms)
    and (line.quantity > line.held or line.expires <= call.now)
    and stock
    and sku_has_due(call, stock)
  then
    -- Units that are due may be this line's: those of others, or its own, which lapsed behind a crowd.
    return { 'AGAIN' }
  end
  if extends and stock and line.held > 0 and line.expires > call.now then
    hold_take(call, cart, stock, line_id, line, line.held, terms, false)
    cart.changed[line_id] = true
  end
end
if not next(cart.changed) then
  return mutation_reply(call, 0, cart)
end
if extends or cart.ttl == 0 then
  cart.ttl = terms.cart_ttl
end
-- Extending is a mutation, so that the cart's snapshot learns of it and a rebuild takes the holds again. Looking
-- whether the cart can be bought is none: who asks is not told a version, and his If-Match goes on to be right.
cart_save(call, cart, extends and call.now or nil)
local reply = mutation_reply(call, 0, cart)
ring_remember(KEYS[2], ARGV[6], ARGV[7], reply)
return reply
