--[[
  cart_accept_changes: the buyer has seen the current prices, options and texts of lines.
  Why atomic: the seen price, the subtotal and the version move together.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  terms                  model.CartTerms, packed
  ARGV[5]  if_match               version, '' for none
  ARGV[6]  idempotency key        '' for none
  ARGV[7]  fingerprint            of the request
  ARGV[8...] line_ids             none: all lines
  Returns  {'OK', created, now, version, lines, units, subtotal, currency}
           {'REPLAYED', ...the first OK reply} | {'IDEMPOTENCY_KEY_REUSED'} | {'VERSION_CONFLICT', version}
           {'ITEM_NOT_FOUND', line_id} | {'CURRENCY_MISMATCH', cart, sku, line_id} | {'LIMIT_EXCEEDED', name, limit} | {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the cart)
]]
--- @include mutation_begin
--- @include version_differs
--- @include cart_load
--- @include line_order
--- @include line_sku
--- @include sku_load
--- @include holds_extend
--- @include cart_save
--- @include mutation_reply
--- @include ring_remember

local call, cart_id, terms = mutation_begin(KEYS, ARGV)
if not call then
  return cart_id
end

local cart = cart_load(call, cart_id)
if version_differs(cart, ARGV[5]) then
  return { 'VERSION_CONFLICT', cart.version }
end
local line_ids = {}
for index = 8, #ARGV do
  line_ids[#line_ids + 1] = ARGV[index]
end
if #ARGV < 8 then
  line_ids = line_order(cart)
end
local subtotal = cart.subtotal
for _, line_id in ipairs(line_ids) do
  local line = cart.lines[line_id]
  if not line then
    return { 'ITEM_NOT_FOUND', line_id }
  end
  local stock = sku_load(call, line_sku(line_id))
  if not stock or stock.currency ~= cart.currency then
    return { 'CURRENCY_MISMATCH', cart.currency, stock and stock.currency or '', line_id }
  end
  subtotal = subtotal + line.quantity * (stock.price - line.price)
end
if subtotal > 9000000000000000 then
  return { 'LIMIT_EXCEEDED', 'total', '9000000000000000' }
end

if #line_ids == 0 then
  return mutation_reply(call, 0, cart)
end
cart.ttl = terms.cart_ttl
cart.subtotal = subtotal
for _, line_id in ipairs(line_ids) do
  local line, stock = cart.lines[line_id], sku_load(call, line_sku(line_id))
  line.price = stock.price
  line.revision = stock.revision
  line.updated = call.now
  cart.changed[line_id] = true
end
holds_extend(call, cart, terms)
cart_save(call, cart, call.now)
local reply = mutation_reply(call, 0, cart)
ring_remember(KEYS[2], ARGV[6], ARGV[7], reply)
return reply
