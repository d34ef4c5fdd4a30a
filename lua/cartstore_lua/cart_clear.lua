--[[
  cart_clear: remove all lines from a cart; their holds go back.
  Why atomic: a line and its hold disappear together, so no unit stays held for a line that is gone.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  terms                  model.CartTerms, packed
  ARGV[5]  if_match               version, '' for none
  ARGV[6]  idempotency key        '' for none
  ARGV[7]  fingerprint            of the request
  Returns  {'OK', created, now, version, lines, units, subtotal, currency}
           {'REPLAYED', ...the first OK reply} | {'IDEMPOTENCY_KEY_REUSED'} | {'VERSION_CONFLICT', version}
           {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the cart)
]]
--- @include mutation_begin
--- @include version_differs
--- @include cart_load
--- @include line_drop
--- @include line_order
--- @include holds_extend
--- @include cart_save
--- @include mutation_reply
--- @include ring_remember

local call, cart_id, terms = mutation_begin(KEYS, ARGV, true)
if not call then
  return cart_id
end

local cart = cart_load(call, cart_id)
if version_differs(cart, ARGV[5]) then
  return { 'VERSION_CONFLICT', cart.version }
end

if cart.count == 0 then
  return mutation_reply(call, 0, cart)
end
cart.ttl = terms.cart_ttl
for _, line_id in ipairs(line_order(cart)) do
  line_drop(call, cart, line_id)
end
holds_extend(call, cart, terms)
cart_save(call, cart, call.now)
local reply = mutation_reply(call, 0, cart)
ring_remember(KEYS[2], ARGV[6], ARGV[7], reply)
return reply
