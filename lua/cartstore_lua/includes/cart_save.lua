--- @include cart_encode
--- @include line_encode
--- @include period_encode
--- @include hash_set
--- @include hold_index
--- @include sku_save

-- Write a changed cart, the SKUs' counters and the hold index. Entries are taken out first: at maxmemory a
-- script is refused at its first write unless that frees memory, so removals always work. A SKU's `held` is raised
-- before the lines that claim more of it are written, and lowered after those that claim less: if the engine refuses a
-- command in between, units are held by nobody, and never free while somebody claims them.
-- updated: the change counts as a mutation of that moment and gets the partition's next change number as
-- version; nil for what is none.
local function cart_save(call, cart, updated)
  for member, holds_key in pairs(cart.zrem) do
    redis.call('ZREM', holds_key, member)
  end
  local gone = {}
  for line_id in pairs(cart.gone) do
    gone[#gone + 1] = 'l:' .. line_id
    if cart.properties[line_id] then
      gone[#gone + 1] = 'p:' .. line_id
      cart.properties[line_id] = nil
    end
  end
  for _, name in ipairs(cart.periods_gone) do
    gone[#gone + 1] = name
  end
  for first = 1, #gone, 1000 do
    redis.call('HDEL', cart.key, unpack(gone, first, math.min(first + 999, #gone)))
  end
  for member, hold in pairs(cart.zadd) do
    hold_index(call.prefix, hold[1], member, hold[2].indexed)
  end
  local lowered = {}
  for _, stock in pairs(call.skus) do
    if stock.held < stock.saved_held or stock.sold then
      lowered[#lowered + 1] = stock
    else
      sku_save(call, stock)
    end
  end
  if call.has_new_lifetime then
    redis.call('HSET', call.gate_key, 'lifetime_ms', call.lifetime)
    call.has_new_lifetime = false
  end
  if updated then
    cart.version = redis.call('HINCRBY', call.gate_key, 'change', 1)
    cart.updated = updated
    redis.call('ZADD', call.prefix .. 'activity', cart.version, cart.id)
  end
  local fields = { 'a', cart_encode(cart) }
  for line_id in pairs(cart.changed) do
    local line = cart.lines[line_id]
    if line then
      fields[#fields + 1] = 'l:' .. line_id
      fields[#fields + 1] = line_encode(line, cart.created)
      if line.new_properties then
        cart.properties[line_id] = line.new_properties
        fields[#fields + 1] = 'p:' .. line_id
        fields[#fields + 1] = line.new_properties
      end
    end
  end
  for sku in pairs(cart.periods_changed) do
    fields[#fields + 1] = 'h:' .. sku
    fields[#fields + 1] = period_encode(cart.periods[sku], cart.created)
  end
  hash_set(cart.key, fields)
  for _, stock in ipairs(lowered) do
    sku_save(call, stock)
  end
  -- A cart that a counter depends on has no TTL; the last release sets one.
  if cart.held + cart.waiting > 0 then
    if not cart.was_counted then
      redis.call('PERSIST', cart.key)
    end
  else
    redis.call('PEXPIRE', cart.key, cart.ttl)
  end
  cart.changed, cart.gone, cart.zrem, cart.zadd = {}, {}, {}, {}
  cart.periods_changed, cart.periods_gone = {}, {}
  cart.was_counted = cart.held + cart.waiting > 0
end
