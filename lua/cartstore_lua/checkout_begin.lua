--[[
  checkout_begin: turn lines of a cart into pending orders, one per seller, under one payment.
  Why atomic: the holds move from the lines to the orders, the lines leave the cart, and the event that
  carries the checkout to PostgreSQL is written, all in one step: nothing can be bought twice or be lost.
  A total of zero needs no gateway: the orders are paid in the same step.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  KEYS[3]  payment hash           {ns:p}:payment:<payment_id>
  KEYS[4]  outbox stream          {ns:p}:outbox
  KEYS[5]  payment hash           the other one that this key may have begun; may be KEYS[3]
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  terms                  model.CartTerms, packed
  ARGV[5]  if_match               version, '' for none
  ARGV[6]  checkout_id
  ARGV[7]  fingerprint            of the request
  ARGV[8]  window                 ms until the release of an unpaid order
  ARGV[9]  expected total         minor units, '' for none
  ARGV[10] gateway                'none' where the total is zero
  ARGV[11] method
  ARGV[12] details                JSON, kept as it is
  ARGV[13] outbox length          at which checkout is refused
  ARGV[14] release limit          due holds released at most, over all SKUs
  ARGV[15] asked                  '1': the record does not know this key; '0': it could not be asked
  ARGV[16] identities             of the customer beside the cart, separated by spaces; '?': not known now
  ARGV[17...] line_ids            none: all lines
  Returns  {'OK', now, position, <payment>, <order>...} | {'REPLAYED', now, position, <payment>, <order>...}
           {'REFUSED', <line_id, code, available, quantity, old price, new price>...} | {'IDEMPOTENCY_KEY_REUSED'}
           {'VERSION_CONFLICT', version} | {'CART_EMPTY'} | {'ITEM_NOT_FOUND', line_id}
           {'TOTAL_CHANGED', total} | {'LIMIT_EXCEEDED', name, limit} | {'STORE_FULL'} | {'RECORD_NEEDED'} | {'AGAIN'}
           {'GATEWAY_NEEDED'} | {'CONTACT_NEEDED', sku} | {'IDENTITY_UNKNOWN'} | {'CUT_OFF'} | {'FENCED'}
  Codes    PRODUCT_INACTIVE, LINE_CHANGED, CURRENCY_MISMATCH, NOT_YET_ON_SALE, INVALID_QUANTITY, PURCHASE_LIMIT,
           PRICE_CHANGED, INSUFFICIENT_STOCK
  Faults   CARTBADARG
  Cost     O(lines of the cart * log holds)
]]
--- @include bought_count
--- @include bought_note
--- @include call_begin
--- @include terms_decode
--- @include version_differs
--- @include cart_release_due
--- @include owner_release_due
--- @include line_order
--- @include sku_load
--- @include sku_has_due
--- @include sku_free
--- @include line_drop
--- @include holds_extend
--- @include hold_period
--- @include lifetime_reach
--- @include period_note
--- @include hold_index
--- @include cart_save
--- @include hash_set
--- @include order_line_encode
--- @include outbox_append
--- @include is_due
--- @include payment_load
--- @include payment_release
--- @include payment_reply
--- @include payment_sales
--- @include payment_sell
--- @include used_find

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local terms, window, limit = terms_decode(ARGV[4]), tonumber(ARGV[8]), tonumber(ARGV[14])
if not terms or not window or not limit then
  return redis.error_reply('CARTBADARG terms, window or release limit')
end
local cart_id = string.sub(KEYS[2], #call.prefix + 6)
local payment_id = string.sub(KEYS[3], #call.prefix + 9)

for index = 3, KEYS[5] == KEYS[3] and 3 or 5, 2 do
  local known = redis.call('HMGET', KEYS[index], 'fingerprint', 'status', 'expires')
  if known[1] then
    if known[1] ~= ARGV[7] then
      return { 'IDEMPOTENCY_KEY_REUSED' }
    end
    local known_id = string.sub(KEYS[index], #call.prefix + 9)
    if known[2] == 'pending' and is_due(call, tonumber(known[3])) and call.disk ~= 'out' then
      payment_release(call, known_id, 'expired')
    end
    return payment_reply(call, 'REPLAYED', known_id)
  end
  -- Orders without their payment: the engine cut off the checkout that began them, perhaps after its event. Another
  -- event of one payment would be refused by the record.
  local order_key = call.prefix .. 'order:' .. 'o' .. string.sub(KEYS[index], #call.prefix + 10) .. '-1'
  if redis.call('HGET', order_key, 'status') == 'pending' then
    return { 'CUT_OFF' }
  end
end
-- What the key began may be older than the engine remembers. Only the record has it then.
if ARGV[15] == '0' and (used_find(call, payment_id) or used_find(call, string.sub(KEYS[5], #call.prefix + 9))) then
  return { 'RECORD_NEEDED' }
end
if call.disk or redis.call('XLEN', KEYS[4]) >= tonumber(ARGV[13]) then
  return { 'STORE_FULL' }
end

local cart, more_due = cart_release_due(call, cart_id, limit)
if more_due then
  return { 'AGAIN' }
end
if version_differs(cart, ARGV[5]) then
  return { 'VERSION_CONFLICT', cart.version }
end
if cart.count == 0 then
  return { 'CART_EMPTY' }
end
local wanted = {}
for index = 17, #ARGV do
  if not cart.lines[ARGV[index]] then
    return { 'ITEM_NOT_FOUND', ARGV[index] }
  end
  wanted[ARGV[index]] = true
end
local line_ids = {}
for _, line_id in ipairs(line_order(cart)) do
  if #ARGV < 17 or wanted[line_id] then
    line_ids[#line_ids + 1] = line_id
  end
end

-- Lines of one SKU compete for the same free units: those that earlier lines need are counted as taken.
local problems, lines, total = {}, {}, 0
local free_of = {}
-- Units that earlier lines have, of SKUs whose rules count over lines, and what the customer may still buy of each.
local units_of, left_of = {}, {}
local buyer = cart_id
if ARGV[16] ~= '' then
  buyer = buyer .. ' ' .. ARGV[16]
end
local limited_sku
local function units_left(stock)
  local left = left_of[stock.sku]
  if not left then
    left = stock.limit_units
    for identity in string.gmatch(buyer, '%S+') do
      left = math.min(left, stock.limit_units - bought_count(call, stock, identity))
    end
    left_of[stock.sku] = left
  end
  return left
end
for _, line_id in ipairs(line_ids) do
  local line = cart.lines[line_id]
  local stock = sku_load(call, line_sku(line_id))
  local code, available = nil, ''
  local others = stock and units_of[stock.sku] or 0
  local is_above_max = stock and stock.max > 0 and others + line.quantity > stock.max
  local rules_broken = stock
    and (line.quantity < stock.min or is_above_max or line.quantity % stock.multiple ~= 0)
  if stock and stock.limit_units then
    limited_sku = stock.sku
  end
  if not stock or not stock.active then
    code = 'PRODUCT_INACTIVE'
  elseif line.revision < stock.terms_revision then
    code = 'LINE_CHANGED'
  elseif stock.currency ~= cart.currency then
    code = 'CURRENCY_MISMATCH'
  elseif stock.starts and call.now < stock.starts then
    code = 'NOT_YET_ON_SALE'
  elseif rules_broken then
    code = 'INVALID_QUANTITY'
    if is_above_max and others > 0 then
      available = math.max(0, stock.max - others)
    end
  elseif stock.limit_units and others + line.quantity > units_left(stock) then
    code, available = 'PURCHASE_LIMIT', math.max(0, units_left(stock) - others)
  elseif stock.price > line.price then
    code = 'PRICE_CHANGED'
  elseif stock.policy == 'deny' then
    local free = free_of[stock.sku] or sku_free(stock, cart.is_guest, terms.guest_share_ppm)
    local missing = line.quantity - line.held
    if missing > math.max(0, free) then
      if sku_has_due(call, stock) then
        return { 'AGAIN' }
      end
      code, available = 'INSUFFICIENT_STOCK', math.max(0, free) + line.held
    end
    free_of[stock.sku] = free - math.max(0, missing)
  end
  if stock and stock.has_sale_rules then
    -- A line that is refused counts with what is left for it: once each named line is lowered to that, all fit.
    units_of[stock.sku] = others + (available ~= '' and math.min(available, line.quantity) or line.quantity)
  end
  if code then
    local told = { line_id, code, available, int(line.quantity), int(line.price), stock and int(stock.price) or '0' }
    for _, value in ipairs(told) do
      problems[#problems + 1] = value
    end
  else
    local mode = stock.policy == 'deny' and 'held' or stock.policy
    -- A drop of the price is taken in the buyer's favour.
    local price = math.min(line.price, stock.price)
    local first = 0
    if mode == 'held' then
      -- Units that rest are held by a checkout: the period goes on.
      first = line.expires > call.now and line.first or hold_period(call, cart, line_id, terms) or call.now
    end
    total = total + price * line.quantity
    lines[#lines + 1] = {
      line_id = line_id, sku = stock.sku, quantity = line.quantity, mode = mode,
      held = mode == 'held' and line.quantity or 0, price = price, revision = line.revision,
      first = first, properties = cart.properties[line_id] or '',
    }
  end
end
if #problems > 0 then
  table.insert(problems, 1, 'REFUSED')
  return problems
end
if limited_sku then
  if ARGV[16] == '?' then
    return { 'IDENTITY_UNKNOWN' }
  end
  if cart.is_guest and ARGV[16] == '' then
    return { 'CONTACT_NEEDED', limited_sku }
  end
end
local extra = 0
for _, line in ipairs(lines) do
  extra = extra + math.max(0, line.held - cart.lines[line.line_id].held)
end
if extra > 0 and cart.held + cart.waiting + extra > terms.held_max then
  if owner_release_due(call, cart) > 0 then
    return { 'AGAIN' }
  end
  return { 'LIMIT_EXCEEDED', 'max_held_per_owner', int(terms.held_max) }
end
if ARGV[9] ~= '' and tonumber(ARGV[9]) ~= total then
  return { 'TOTAL_CHANGED', int(total) }
end
if total > 9000000000000000 then
  return { 'LIMIT_EXCEEDED', 'total', '9000000000000000' }
end

if total > 0 and ARGV[10] == 'none' then
  return { 'GATEWAY_NEEDED' }
end

-- Group by seller in the order of the sellers' first lines.
local orders, by_seller = {}, {}
for _, line in ipairs(lines) do
  local seller = redis.call('HGET', call.prefix .. 'sku:' .. line.sku, 'seller') or ''
  local order = by_seller[seller]
  if not order then
    order = { id = 'o' .. string.sub(payment_id, 2) .. '-' .. (#orders + 1), seller = seller, total = 0, lines = {} }
    by_seller[seller] = order
    orders[#orders + 1] = order
  end
  order.lines[#order.lines + 1] = line
  order.total = order.total + line.price * line.quantity
end

-- Nothing is left to pay, so no gateway is asked.
local is_free = total == 0
local gateway = is_free and 'none' or ARGV[10]
local currency = cart.currency
local expires = call.now + window
lifetime_reach(call, window)
cart.ttl = terms.cart_ttl
for _, line in ipairs(lines) do
  line_drop(call, cart, line.line_id)
  if line.held > 0 then
    local stock = sku_load(call, line.sku)
    stock.held = stock.held + line.held
    stock.has_moved = true
    if cart.is_guest then
      stock.guest_held = stock.guest_held + line.held
    end
    cart.waiting = cart.waiting + line.held
    period_note(call, cart, line.sku, line.first, call.now, line.held)
  end
end
holds_extend(call, cart, terms)

local kind = 'partial'
if cart.count == 0 then
  kind = 'full_cart'
elseif #lines == 1 then
  kind = 'single_item'
end
local body = {
  payment_id = payment_id, checkout_id = ARGV[6], checkout_type = kind, cart_id = cart_id, amount_minor = int(total),
  currency = currency, gateway = gateway, method = ARGV[11], expires_at_ms = int(expires),
  created_at_ms = int(call.now), fingerprint = ARGV[7], details_json = ARGV[12], orders = {},
}
local order_ids = {}
for index, order in ipairs(orders) do
  local told = { order_id = order.id, seller = order.seller, total_minor = int(order.total), lines = {} }
  local fields = {
    'id', order.id, 'payment', payment_id, 'checkout', ARGV[6], 'cart', cart_id, 'seller', order.seller, 'status',
    'pending', 'reason', '', 'total', int(order.total), 'currency', currency, 'created', int(call.now), 'count',
    int(#order.lines),
  }
  for number, line in ipairs(order.lines) do
    fields[#fields + 1] = 'l' .. number
    fields[#fields + 1] = order_line_encode(line)
    told.lines[number] = {
      line_id = line.line_id, sku = line.sku, quantity = int(line.quantity), held = int(line.held), mode = line.mode,
      unit_price_minor = int(line.price), revision = int(line.revision), first_held_at_ms = int(line.first),
      properties_json = line.properties ~= '' and line.properties or nil,
    }
  end
  hash_set(call.prefix .. 'order:' .. order.id, fields)
  for _, line in ipairs(order.lines) do
    if line.held > 0 then
      hold_index(call.prefix, sku_load(call, line.sku), 'o\31' .. order.id, expires)
    end
  end
  order_ids[index] = order.id
  body.orders[index] = told
end
cart_save(call, cart, call.now)
local position = outbox_append(call, 'checkout_begun', body, payment_id, cart.version)
redis.call(
  'HSET', KEYS[3], 'id', payment_id, 'checkout', ARGV[6], 'type', kind, 'cart', cart_id, 'cart_ttl', int(cart.ttl),
  'status', 'pending', 'amount', int(total), 'currency', currency, 'gateway', gateway, 'method', ARGV[11],
  'attempts', '0', 'orders', table.concat(order_ids, ' '), 'expires', int(expires), 'created', int(call.now),
  'fingerprint', ARGV[7], 'details', ARGV[12], 'event', position
)
redis.call('ZADD', call.prefix .. 'due', int(expires), payment_id)
redis.call('ZADD', call.prefix .. 'orders:' .. cart_id, int(call.now), payment_id)
if limited_sku then
  -- Written last: if the script is cut off before, the order counts against no limit until reconcile counts it. Written
  -- first, an order that is undone (order_void) would count as bought.
  redis.call('HSET', KEYS[3], 'buyer', buyer)
  bought_note(call, { list = orders, created = call.now, buyer = buyer })
end
if is_free then
  -- Pending first: an engine that refuses a command in between leaves what a settlement that was cut off leaves.
  local payment = payment_load(call, payment_id)
  payment_sell(call, payment, payment_sales(payment), nil, 'paid')
end
return payment_reply(call, 'OK', payment_id)
