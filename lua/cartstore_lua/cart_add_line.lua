--[[
  cart_add_line: add a quantity of one variation to a cart and hold the stock.
  Why atomic: the limit check, the hold, the line and the version are one change; between any two of them
  another buyer could take the same unit.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  KEYS[3]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  terms                  model.CartTerms, packed
  ARGV[5]  if_match               version, '' for none
  ARGV[6]  idempotency key        '' for none
  ARGV[7]  fingerprint            of the request
  ARGV[8]  line_id
  ARGV[9]  quantity               integer, 1..QUANTITY_MAX, added to what the line has
  ARGV[10] properties             canonical JSON, '' for none
  ARGV[11] hurried                '' or '1': DUE is only answered where what is free already will not do
  Returns  {'OK', created, now, version, lines, units, subtotal, currency, <line>}
           {'REPLAYED', ...the first OK reply} | {'IDEMPOTENCY_KEY_REUSED'} | {'VERSION_CONFLICT', version}
           {'PRODUCT_NOT_FOUND'} | {'PRODUCT_INACTIVE'} | {'CURRENCY_MISMATCH', cart, sku}
           {'INVALID_QUANTITY', rules} | {'LIMIT_EXCEEDED', name, limit} | {'INSUFFICIENT_STOCK', available, quantity}
           {'OWNER_DUE', name, limit} | {'DUE', sku} | {'FENCED'}
  Faults   CARTBADARG
  Function no flags
  Cost     O(log holds of the SKU), unless a hold of the cart may have lapsed: then O(lines of the cart)
]]
--- @include mutation_begin
--- @include version_differs
--- @include sku_has_due
--- @include sku_load
--- @include cart_load_line
--- @include line_check
--- @include line_put
--- @include holds_extend
--- @include cart_save
--- @include mutation_reply
--- @include line_append
--- @include ring_remember

local call, cart_id, terms = mutation_begin(KEYS, ARGV)
if not call then
  return cart_id
end
local line_id, quantity, properties = ARGV[8], tonumber(ARGV[9]), ARGV[10]
if not quantity then
  return redis.error_reply('CARTBADARG quantity')
end
local sku = string.sub(KEYS[3], #call.prefix + 5)

local stock = sku_load(call, sku)
if ARGV[11] == '' and stock and sku_has_due(call, stock) then
  return { 'DUE', sku }
end
local cart = cart_load_line(call, cart_id, line_id)
if version_differs(cart, ARGV[5]) then
  return { 'VERSION_CONFLICT', cart.version }
end
if not stock then
  return { 'PRODUCT_NOT_FOUND' }
end
if not stock.active then
  return { 'PRODUCT_INACTIVE' }
end
if cart.count > 0 and cart.currency ~= stock.currency then
  return { 'CURRENCY_MISMATCH', cart.currency, stock.currency }
end
local line = cart.lines[line_id]
local created = line and 0 or 1
line = line or { quantity = 0, held = 0, price = 0 }
local wanted = line.quantity + quantity
local problem = line_check(cart, stock, line, wanted, stock.price, terms)
if problem and problem[1] == 'INSUFFICIENT_STOCK' and sku_has_due(call, stock) then
  return { 'DUE', sku }
end
if problem and problem[2] == 'max_held_per_owner' then
  return { 'OWNER_DUE', problem[2], problem[3] }
end
if problem then
  return problem
end

cart.ttl = terms.cart_ttl
line_put(call, cart, stock, line_id, wanted, true, properties, terms)
holds_extend(call, cart)
cart_save(call, cart, call.now)
local reply = mutation_reply(call, created, cart)
line_append(call, reply, cart, line_id, stock, terms.guest_share_ppm)
ring_remember(KEYS[2], ARGV[6], ARGV[7], reply)
return reply
