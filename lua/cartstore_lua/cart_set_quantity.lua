--[[
  cart_set_quantity: set a line's quantity; 0 removes it.
  Why atomic: units that are no longer wanted go back in the step that lowers the quantity.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  KEYS[3]  sku hash               {ns:p}:sku:<sku>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  terms                  model.CartTerms, packed
  ARGV[3]  line_id
  ARGV[4]  quantity               integer, 0..QUANTITY_MAX
  The rest may be left out from the end, and '' is none:
  ARGV[5]  hurried                '1': DUE is only answered where what is free already will not do
  ARGV[6]  if_match               version
  ARGV[7]  idempotency key
  ARGV[8]  fingerprint            of the request
  ARGV[9]  not used
  ARGV[10] now override           ms; none in production
  ARGV[11] nonce                  of this call; OWED asks for it
  Returns  {'OK', <change, packed>} | {'OK', <change, packed>, rests until}, or with an idempotency key or after a removal
           {'OK', created, now, version, lines, units, subtotal, currency, <line, unless removed>}
           {'REPLAYED', ...the first OK reply} | {'IDEMPOTENCY_KEY_REUSED'} | {'VERSION_CONFLICT', version}
           {'ITEM_NOT_FOUND'} | {'PRODUCT_NOT_FOUND'} | {'PRODUCT_INACTIVE'} | {'CURRENCY_MISMATCH', cart, sku}
           {'NOT_YET_ON_SALE', from} | {'INVALID_QUANTITY', rules, available}
           {'PURCHASE_LIMIT', available, quantity, limit, window, left}
           {'LIMIT_EXCEEDED', name, limit} | {'INSUFFICIENT_STOCK', available, quantity, fitting} | {'OWNER_DUE', name, limit}
           {'DUE', sku} | {'OWED'} | {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Function allow-oom
  Cost     O(log holds of the SKU), unless a hold of the cart may have lapsed: then O(lines of the cart)
]]
--- @include call_begin
--- @include line_change

local call = call_begin(KEYS[1], ARGV[1], ARGV[10] or '', ARGV[11] or '')
if not call then
  return { 'FENCED' }
end
return line_change(
  call, KEYS[2], KEYS[3], false, { 'ITEM_NOT_FOUND' },
  ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
)
