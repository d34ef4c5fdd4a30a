--- @include terms_decode
--- @include ring_find
--- @include ring_remember
--- @include sku_read
--- @include sku_has_due
--- @include sku_free
--- @include sku_save
--- @include hold_index
--- @include line_expires
--- @include line_check
--- @include sale_check
--- @include sku_units_elsewhere
--- @include lines_lapse
--- @include cart_load
--- @include hold_period
--- @include line_rests
--- @include period_decode
--- @include period_encode
--- @include period_ended
--- @include periods_prune
--- @include change_note

-- One line of a cart gets another quantity and holds it: what an add, a change and a removal have in common. It is
-- most of what the engine ever does, so it is written straight on, with values in place of the tables of a cart and
-- its lines (cart_decode, line_decode, line_put, holds_extend, cart_save, which it has to agree with); the rules are
-- shared (line_check, sku_free). Only the line and the cart's own field are read and written, however many lines there
-- are, unless the hold of another line may have lapsed, or units of the owner may rest.
-- call: as call_begin has it; the changes of one script call may share it.
-- adds: `quantity` is added to what the line has, the line may be new, and the buyer sees its current price.
-- absent: the refusal when there is no such line, else.
-- packed_terms and what follows: the arguments of such a call, in their order; from `hurried` on they may be nil.
local function line_change(
  call, cart_key, sku_key, adds, absent,
  packed_terms, line_id, quantity, hurried, if_match, key, fingerprint, new_properties
)
  local redis_call = redis.call
  local gate_key, now = call.gate_key, call.now
  local terms = terms_decode(packed_terms)
  quantity, key = tonumber(quantity), key or ''
  if not terms or not quantity or (adds and quantity < 1) then
    return redis.error_reply('CARTBADARG terms or quantity')
  end
  if key ~= '' then
    local remembered = ring_find(cart_key, key, fingerprint)
    if remembered then
      return remembered
    end
  end

  local prefix = call.prefix
  local cart_id, sku = string.sub(cart_key, #prefix + 6), string.sub(sku_key, #prefix + 5)
  local stock = sku_read(sku_key, sku, now)
  local is_due = stock and sku_has_due(call, stock)
  if is_due and (adds or quantity > 0) and hurried ~= '1' then
    return { 'DUE', sku }
  end

  -- The cart, as cart_decode has it.
  local line_field = 'l:' .. line_id
  -- Only a line whose id says more than its SKU can have properties.
  local properties_field = line_id ~= sku and 'p:' .. line_id
  local packed = properties_field and redis_call('HMGET', cart_key, 'a', line_field, properties_field)
    or redis_call('HMGET', cart_key, 'a', line_field)
  local version, count, units, subtotal, held, waiting, ordinal = 0, 0, 0, 0, 0, 0, 0
  local updated, extended, ttl_min, created, _, currency, watched, merged_into = 0, -now, 0, now, 0, '', 0, ''
  local period_end = 0
  if packed[1] then
    version, count, units, subtotal, held, waiting, ordinal, updated, extended, ttl_min, created, _, currency, watched,
      merged_into, period_end = cmsgpack.unpack(packed[1])
  end
  extended = created + updated + extended
  if if_match and if_match ~= '' and tonumber(if_match) ~= version then
    return { 'VERSION_CONFLICT', version }
  end

  -- Its line, as line_decode has it.
  local is_new = not packed[2]
  local has, line_held, indexed, latest, first, line_ttl, seen, revision, place, added = 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
  if not is_new then
    has, line_held, indexed, latest, first, line_ttl, seen, revision, place, added = cmsgpack.unpack(packed[2])
  end
  if not adds and is_new then
    return absent
  end
  local wanted, price = quantity, seen
  if adds then
    wanted, price = has + quantity, stock and stock.price
  end
  if call.disk and (wanted > has or call.disk == 'out') then
    return { 'STORE_FULL' }
  end
  local is_guest = string.sub(cart_id, 1, 2) == 'g.'
  local expires = 0
  if line_held > 0 then
    expires = line_expires(created + indexed, line_ttl, created + latest, extended, now)
  end

  -- A new hold takes over the first hold of its owner's period of the SKU, or may not be taken because the units rest.
  local began, rests_until, periods_gone = now, nil, nil
  if
    (period_end ~= 0 or waiting > 0 or line_held > 0 or (properties_field and count > 0))
    and expires <= now and wanted > 0 and stock
  then
    local whole = cart_load(call, cart_id)
    if stock.policy == 'deny' and stock.hold_policy == 'on_add' then
      local until_ms = line_rests(call, whole, line_id, whole.lines[line_id], terms)
      rests_until = until_ms > 0 and until_ms or nil
      began = math.min(now, hold_period(call, whole, line_id, terms) or now)
    end
    periods_gone = periods_prune(call, whole, terms)
    period_end = whole.period_end > 0 and math.max(1, whole.period_end - created + 1) or 0
    if rests_until then
      terms = terms.resting
    end
  end

  if adds or wanted > 0 then
    if not stock then
      return { 'PRODUCT_NOT_FOUND' }
    end
    if not stock.active and (adds or wanted >= has) then
      return { 'PRODUCT_INACTIVE' }
    end
    if count > 0 and currency ~= stock.currency then
      return { 'CURRENCY_MISMATCH', currency, stock.currency }
    end
    local problem = nil
    if stock.has_sale_rules then
      local others = count > (is_new and 0 or 1) and sku_units_elsewhere(cart_key, sku, line_field) or 0
      problem = sale_check(call, cart_id, stock, has, wanted, others)
    end
    problem = problem or line_check(
      stock, terms, is_guest, count, units, subtotal, held + waiting, has, line_held, seen, wanted, price
    )
    if problem and is_due and problem[1] == 'INSUFFICIENT_STOCK' then
      return { 'DUE', sku }
    end
    if problem and problem[2] == 'max_held_per_owner' then
      return { 'OWNER_DUE', problem[2], problem[3] }
    end
    if problem then
      return problem
    end
  end

  -- The other lines' holds are extended by `extended` alone, but those that have lapsed must not be.
  local lapsed = nil
  if ttl_min > 0 and extended + ttl_min <= now then
    ttl_min, lapsed = lines_lapse(cart_key, line_field, created, extended, now)
  end

  -- The line's hold.
  local was_held, was_counted = line_held, held + waiting > 0
  local is_indexed = false
  if wanted == 0 then
    line_held = 0
  elseif stock.policy == 'deny' and stock.hold_policy == 'on_add' and terms.reservations then
    if line_held == 0 or expires <= now then
      first, expires, is_indexed = began - created, 0, true
    end
    line_held = wanted
    line_ttl = stock.ttl > 0 and stock.ttl or terms.ttl
    latest = first + terms.cap
    -- Comparisons, where a call of math.min would cost as much as all of this.
    local reached, cap_end = now + line_ttl, created + latest
    if cap_end < reached then
      reached = cap_end
    end
    if reached < expires then
      is_indexed = true
    else
      expires = reached
    end
    if is_indexed then
      indexed = expires - created
    end
    if properties_field then
      period_end = math.max(period_end, latest + 1)
    end
    if reached - now > call.lifetime then
      call.has_new_lifetime, call.lifetime = true, reached - now
    end
  else
    line_held = math.min(line_held, wanted)
    if line_held > 0 and line_ttl > 0 then
      if expires > now then
        expires = math.max(expires, math.min(now + line_ttl, created + latest))
      else
        line_ttl = 0
      end
    end
  end
  if line_held > 0 and line_ttl > 0 then
    if ttl_min == 0 or line_ttl < ttl_min then
      ttl_min = line_ttl
    end
  end
  local change = line_held - was_held
  -- Units that are given back may serve a paid backorder, and its event needs a nonce, which most calls do without.
  if change < 0 and call.nonce == '' and tonumber(redis_call('HGET', sku_key, 'backordered') or '') ~= 0 then
    return { 'OWED' }
  end
  held = held + change
  if change ~= 0 then
    stock.held = stock.held + change
    stock.has_moved = true
    if is_guest then
      stock.guest_held = stock.guest_held + change
    end
  end

  -- The writes, in the order of cart_save: what frees memory goes first.
  local period
  if was_held > 0 and line_held == 0 then
    -- Without either, nothing is recorded of any SKU.
    local known = (period_end ~= 0 or waiting > 0) and redis_call('HGET', cart_key, 'h:' .. sku)
    period = period_ended(known and period_decode(known, created), now, created + first, expires)
    period_end = math.max(period_end, 1, period.ended - created + 1)
    redis_call('ZREM', prefix .. 'holds:' .. sku, 'c\31' .. cart_id .. '\31' .. line_id)
  end
  local properties = packed[3] or ''
  if wanted == 0 then
    redis_call('HDEL', cart_key, line_field, properties_field or line_field)
  end
  if periods_gone then
    for from = 1, #periods_gone, 1000 do
      redis_call('HDEL', cart_key, unpack(periods_gone, from, math.min(from + 999, #periods_gone)))
    end
  end
  if is_indexed then
    hold_index(prefix, stock, 'c\31' .. cart_id .. '\31' .. line_id, expires)
  end
  -- `held` is raised before the line that claims more is written, and lowered after one that claims less (cart_save).
  if stock and change >= 0 then
    sku_save(call, stock)
  end
  if call.has_new_lifetime then
    redis_call('HSET', gate_key, 'lifetime_ms', call.lifetime)
    call.has_new_lifetime = false
  end
  version = change_note(call, cart_id)
  units = units + wanted - has
  subtotal = subtotal - has * seen + wanted * price
  if is_new then
    ordinal, count, added, currency = ordinal + 1, count + 1, now - created, stock.currency
    place = ordinal
    if new_properties and new_properties ~= '' then
      properties = new_properties
      redis_call('HSET', cart_key, 'p:' .. line_id, properties)
    end
  elseif wanted == 0 then
    count = count - 1
  end
  if adds or is_new then
    revision = stock.revision
  end
  updated = now - created
  local packed_cart = cmsgpack.pack(
    version, count, units, subtotal, held, waiting, ordinal, updated, 0, ttl_min, created, terms.cart_ttl,
    currency, watched, merged_into, period_end
  )
  if wanted == 0 then
    if period then
      redis_call('HSET', cart_key, 'a', packed_cart, 'h:' .. sku, period_encode(period, created))
    else
      redis_call('HSET', cart_key, 'a', packed_cart)
    end
  else
    redis_call('HSET', cart_key, 'a', packed_cart, line_field, cmsgpack.pack(
      wanted, line_held, indexed, latest, first, line_ttl, price, revision, place, added, updated
    ))
  end
  if stock and change < 0 then
    sku_save(call, stock)
  end
  if lapsed then
    for index = 1, #lapsed, 2 do
      redis_call('HSET', cart_key, lapsed[index], lapsed[index + 1])
    end
  end
  -- A cart that a counter depends on has no TTL; the last release sets one.
  if held + waiting == 0 then
    redis_call('PEXPIRE', cart_key, terms.cart_ttl)
  elseif not was_counted and packed[1] then
    redis_call('PERSIST', cart_key)
  end

  -- As mutation_reply and line_append have it.
  local reply
  if wanted == 0 then
    reply = { 'OK', 0, now, version, count, units, subtotal, currency }
  else
    local available = stock.policy == 'deny' and sku_free(stock, is_guest, terms.guest_share_ppm) + line_held or nil
    local first_held = created + first
    local is_on_sale = stock.active and not (stock.starts and now < stock.starts)
    if expires <= now then
      line_held, expires, first_held = 0, 0, 0
    end
    -- As line_state has it; the cart is in the SKU's currency here, and an add has seen what the SKU is.
    local state = is_on_sale and 1 or 0
    if not adds and revision < stock.terms_revision then
      state = state + 2
    end
    if key == '' then
      -- In one text: two dozen values would be as many for the interpreter and the protocol to carry.
      local packed_change = struct.pack(
        '>i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8',
        is_new and 1 or 0, now, version, count, units, subtotal, wanted, line_held, expires, first_held, price, revision,
        place, created + added, stock.price, stock.revision, state, available or -1
      ) .. currency .. '\31' .. stock.policy .. '\31' .. properties
      return { 'OK', packed_change, rests_until }
    end
    reply = {
      'OK', is_new and 1 or 0, now, version, count, units, subtotal, currency,
      line_id, properties, wanted, line_held, expires, first_held, price, revision, place, created + added, now,
      stock.price, stock.revision, state, stock.policy, available or '', rests_until or 0,
    }
  end
  ring_remember(cart_key, key, fingerprint, reply)
  return reply
end
