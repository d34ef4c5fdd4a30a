--[[
  cart_put_lines: set several lines to quantities at once.
  Why atomic: with mode `all` a buyer gets everything or nothing, and every shortfall is named at once.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  terms                  model.CartTerms, packed
  ARGV[5]  if_match               version, '' for none
  ARGV[6]  idempotency key        '' for none
  ARGV[7]  fingerprint            of the request
  ARGV[8]  mode                   'all' or 'partial'
  ARGV[9]  release limit          due holds released at most, over all SKUs
  ARGV[10...] per item: line_id, quantity, 'new' or 'known' (whether a line may be made), properties
  Returns  {'OK', created, now, version, lines, units, subtotal, currency, <per item: line_id, code, available>}
           {'REPLAYED', ...the first OK reply} | {'REFUSED', <per item with a problem: line_id, code, available>}
           {'IDEMPOTENCY_KEY_REUSED'} | {'VERSION_CONFLICT', version} | {'AGAIN'} | {'STORE_FULL'} | {'FENCED'}
  Codes    OK, ITEM_NOT_FOUND, PRODUCT_NOT_FOUND, PRODUCT_INACTIVE, CURRENCY_MISMATCH, NOT_YET_ON_SALE,
           INVALID_QUANTITY, PURCHASE_LIMIT, LIMIT_EXCEEDED, INSUFFICIENT_STOCK
  Faults   CARTBADARG
  Cost     O(lines of the cart + items * log holds)
]]
--- @include mutation_begin
--- @include version_differs
--- @include hold_release_if_due
--- @include owner_release_due
--- @include sku_load
--- @include sku_has_due
--- @include line_sku
--- @include cart_load
--- @include line_check
--- @include sale_check
--- @include line_put
--- @include line_rests
--- @include line_drop
--- @include holds_extend
--- @include cart_save
--- @include mutation_reply
--- @include ring_remember

local call, cart_id, terms = mutation_begin(KEYS, ARGV)
if not call then
  return cart_id
end
local mode, limit = ARGV[8], tonumber(ARGV[9])
if not limit or (#ARGV - 9) % 4 ~= 0 then
  return redis.error_reply('CARTBADARG items or release limit')
end

-- An entry that removes a line uses no availability and tells none, so it releases nothing.
local seen = {}
for index = 10, #ARGV, 4 do
  local sku = line_sku(ARGV[index])
  if not seen[sku] and ARGV[index + 1] ~= '0' then
    seen[sku] = true
    local released, more_due = hold_release_if_due(call, sku, math.max(1, limit))
    if more_due then
      return { 'AGAIN' }
    end
    limit = limit - released
  end
end
local cart = cart_load(call, cart_id)
if version_differs(cart, ARGV[5]) then
  return { 'VERSION_CONFLICT', cart.version }
end

-- The cart and the SKUs are changed in memory only, entry by entry, so that entries compete for the same
-- stock and limits as they would one after the other. Units that entries give back are there for the others.
local function item_problem(line_id, quantity, may_be_new, its_terms)
  local line = cart.lines[line_id]
  local stock = sku_load(call, line_sku(line_id))
  if not line and not may_be_new then
    return { 'ITEM_NOT_FOUND' }
  end
  if quantity == 0 then
    return nil
  end
  if not stock then
    return { 'PRODUCT_NOT_FOUND' }
  end
  if not stock.active and (not line or quantity >= line.quantity) then
    return { 'PRODUCT_INACTIVE' }
  end
  if cart.count > 0 and cart.currency ~= stock.currency then
    return { 'CURRENCY_MISMATCH' }
  end
  line = line or { quantity = 0, held = 0, price = 0 }
  if stock.has_sale_rules then
    local others = 0
    for other_id, other in pairs(cart.lines) do
      if other_id ~= line_id and line_sku(other_id) == stock.sku then
        others = others + other.quantity
      end
    end
    local problem = sale_check(call, cart_id, stock, line.quantity, quantity, others)
    if problem then
      return problem
    end
  end
  return line_check(
    stock, its_terms, cart.is_guest, cart.count, cart.units, cart.subtotal, cart.held + cart.waiting, line.quantity,
    line.held, line.price, quantity, line.quantity > 0 and line.price or stock.price
  )
end

local outcomes, refused, wrote = {}, {}, false
for index = 10, #ARGV, 4 do
  local line_id, quantity = ARGV[index], tonumber(ARGV[index + 1])
  if not quantity then
    return redis.error_reply('CARTBADARG quantity')
  end
  local its_terms = line_rests(call, cart, line_id, cart.lines[line_id], terms) > 0 and terms.resting or terms
  local problem = item_problem(line_id, quantity, ARGV[index + 2] == 'new', its_terms)
  if problem and problem[2] == 'max_held_per_owner' and owner_release_due(call, cart) > 0 then
    return { 'AGAIN' }
  end
  if problem and problem[1] == 'INSUFFICIENT_STOCK' and sku_has_due(call, sku_load(call, line_sku(line_id))) then
    return { 'AGAIN' }
  end
  local outcome = { line_id, problem and problem[1] or 'OK', '' }
  if problem then
    -- What the line can have.
    local is_told = problem[1] == 'INSUFFICIENT_STOCK' or problem[1] == 'PURCHASE_LIMIT'
    outcome[3] = is_told and int(tonumber(problem[2])) or problem[1] == 'INVALID_QUANTITY' and problem[3] or ''
    refused[#refused + 1] = outcome
  elseif quantity > 0 then
    line_put(call, cart, sku_load(call, line_sku(line_id)), line_id, quantity, not cart.lines[line_id], ARGV[index + 3],
      its_terms)
    wrote = true
  elseif cart.lines[line_id] then
    line_drop(call, cart, line_id)
    wrote = true
  end
  outcomes[#outcomes + 1] = outcome
end
if mode == 'all' and #refused > 0 then
  local reply = { 'REFUSED' }
  for _, outcome in ipairs(refused) do
    for field = 1, 3 do
      reply[#reply + 1] = outcome[field]
    end
  end
  return reply
end

if wrote then
  cart.ttl = terms.cart_ttl
  holds_extend(call, cart, terms)
  cart_save(call, cart, call.now)
end
local reply = mutation_reply(call, 0, cart)
for _, outcome in ipairs(outcomes) do
  for field = 1, 3 do
    reply[#reply + 1] = outcome[field]
  end
end
if wrote then
  ring_remember(KEYS[2], ARGV[6], ARGV[7], reply)
end
return reply
