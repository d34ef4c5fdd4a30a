--[[
  cart_set_quantity: set a line's quantity; 0 removes it.
  Why atomic: units that are no longer wanted go back in the step that lowers the quantity.

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
  ARGV[9]  quantity               integer, 0..QUANTITY_MAX
  ARGV[10] hurried                '' or '1': DUE is only answered where what is free already will not do
  Returns  {'OK', created, now, version, lines, units, subtotal, currency, <line, unless removed>}
           {'REPLAYED', ...the first OK reply} | {'IDEMPOTENCY_KEY_REUSED'} | {'VERSION_CONFLICT', version}
           {'ITEM_NOT_FOUND'} | {'PRODUCT_NOT_FOUND'} | {'PRODUCT_INACTIVE'} | {'CURRENCY_MISMATCH', cart, sku}
           {'INVALID_QUANTITY', rules}
           {'LIMIT_EXCEEDED', name, limit} | {'INSUFFICIENT_STOCK', available, quantity} | {'OWNER_DUE', name, limit}
           {'DUE', sku} | {'FENCED'}
  Faults   CARTBADARG
  Function allow-oom
  Cost     O(log holds of the SKU), unless a hold of the cart may have lapsed: then O(lines of the cart)
]]
--- @include mutation_begin
--- @include version_differs
--- @include sku_has_due
--- @include sku_load
--- @include cart_load_line
--- @include line_check
--- @include line_put
--- @include line_drop
--- @include holds_extend
--- @include cart_save
--- @include mutation_reply
--- @include line_append
--- @include ring_remember

local call, cart_id, terms = mutation_begin(KEYS, ARGV)
if not call then
  return cart_id
end
local line_id, quantity = ARGV[8], tonumber(ARGV[9])
if not quantity then
  return redis.error_reply('CARTBADARG quantity')
end
local sku = string.sub(KEYS[3], #call.prefix + 5)

local stock = sku_load(call, sku)
if ARGV[10] == '' and quantity > 0 and stock and sku_has_due(call, stock) then
  return { 'DUE', sku }
end
local cart = cart_load_line(call, cart_id, line_id)
if version_differs(cart, ARGV[5]) then
  return { 'VERSION_CONFLICT', cart.version }
end
local line = cart.lines[line_id]
if not line then
  return { 'ITEM_NOT_FOUND' }
end
if quantity > 0 then
  if not stock then
    return { 'PRODUCT_NOT_FOUND' }
  end
  if not stock.active and quantity >= line.quantity then
    return { 'PRODUCT_INACTIVE' }
  end
  if stock.currency ~= cart.currency then
    return { 'CURRENCY_MISMATCH', cart.currency, stock.currency }
  end
  local problem = line_check(cart, stock, line, quantity, line.price, terms)
  if problem and problem[1] == 'INSUFFICIENT_STOCK' and sku_has_due(call, stock) then
    return { 'DUE', sku }
  end
  if problem and problem[2] == 'max_held_per_owner' then
    return { 'OWNER_DUE', problem[2], problem[3] }
  end
  if problem then
    return problem
  end
end

cart.ttl = terms.cart_ttl
if quantity > 0 then
  line_put(call, cart, stock, line_id, quantity, false, '', terms)
else
  line_drop(call, cart, line_id)
end
holds_extend(call, cart)
cart_save(call, cart, call.now)
local reply = mutation_reply(call, 0, cart)
if quantity > 0 then
  line_append(call, reply, cart, line_id, stock, terms.guest_share_ppm)
end
ring_remember(KEYS[2], ARGV[6], ARGV[7], reply)
return reply
