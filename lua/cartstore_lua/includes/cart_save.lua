--- @include int
--- @include line_encode
--- @include hash_set

-- Write a changed cart, the SKUs' counters and the hold index. Entries are taken out first: at maxmemory a
-- script is refused at its first write unless that frees memory, so removals always work.
-- bump: the change counts as a mutation and gets the partition's next change number as version.
local function cart_save(call, cart, bump)
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
  for first = 1, #gone, 1000 do
    redis.call('HDEL', cart.key, unpack(gone, first, math.min(first + 999, #gone)))
  end
  for sku, stock in pairs(call.skus or {}) do
    if stock.held_change ~= 0 then
      -- Whole values in one command: sku_load read them in this very script.
      stock.rev = stock.rev + 1
      redis.call(
        'HSET', call.prefix .. 'sku:' .. sku, 'held', int(stock.held), 'rev', int(stock.rev), 'guest_held',
        int(stock.guest_held)
      )
      stock.held_change = 0
    end
  end
  if bump then
    cart.version = redis.call('HINCRBY', call.gate_key, 'change', 1)
    cart.updated = call.now
    redis.call('ZADD', call.prefix .. 'activity', int(cart.version), cart.id)
  end
  local fields = {
    'v', int(cart.version), 'n', int(cart.units), 's', int(cart.subtotal), 'c', cart.currency,
    't', int(cart.created), 'u', int(cart.updated), 'k', int(cart.count), 'h', int(cart.held),
    'w', int(cart.waiting), 'o', int(cart.ordinal), 'x', int(cart.ttl),
  }
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
  hash_set(cart.key, fields)
  for member, hold in pairs(cart.zadd) do
    local expires = int(hold[2].expires)
    redis.call('ZADD', call.prefix .. 'holds:' .. hold[1], expires, member)
    -- An extended hold can only be later than what `holding` has for its SKU.
    if hold[3] then
      redis.call('ZADD', call.prefix .. 'holding', 'LT', expires, hold[1])
    end
  end
  -- A cart that a counter depends on has no TTL; the last release sets one.
  if cart.held + cart.waiting > 0 then
    if not cart.was_counted then
      redis.call('PERSIST', cart.key)
    end
  else
    redis.call('PEXPIRE', cart.key, int(cart.ttl))
  end
  cart.changed, cart.gone, cart.zrem, cart.zadd = {}, {}, {}, {}
  cart.was_counted = cart.held + cart.waiting > 0
end
