--[[
  cart_dump_layout_4: as cart_dump, from an engine of key layout 4 whose gate gate_take_over has shut. It stays as it is
  when the layout of carts changes, and goes with the take-over of layout 4. Writes nothing.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  activity index         {ns:p}:activity
  ARGV[1]  identity               of the engine; not compared, the gate carries one of layout 4
  ARGV[2]  epoch                  of the gate
  ARGV[3]  after                  change number; carts with a later one
  ARGV[4]  limit                  carts
  Returns  {'OK', <cart_id, change, cart>...} | {'RACED'}
           cart: {} | {'unreadable'} | {version, currency, created, updated, lifetime, <line_id, properties, quantity,
           held, held until, first held, price, revision, ordinal, added, updated>...}
  Faults   none
  Cost     O(limit * lines of a cart)
]]

local gate = redis.call('HMGET', KEYS[1], 'status', 'epoch', 'layout')
if gate[1] ~= 'fenced' or gate[2] ~= ARGV[2] or gate[3] ~= '4' then
  return { 'RACED' }
end

-- A line as the dump tells it, its place first; nil for one that cannot be read.
local function line_of(packed, created, extended)
  local is_packed, quantity, held, indexed, latest, first, ttl, price, revision, ordinal, added, updated, more =
    pcall(cmsgpack.unpack, packed)
  if not is_packed or type(updated) ~= 'number' or more then
    return nil
  end
  local held_until = 0
  if held > 0 then
    held_until = created + (ttl == 0 and indexed or math.max(indexed, math.min(extended - created + ttl, latest)))
  end
  return {
    ordinal, quantity, held, held_until, held > 0 and created + first or 0, price, revision, created + added,
    created + updated,
  }
end

local function cart_of(cart_id)
  local flat = redis.call('HGETALL', string.sub(KEYS[1], 1, -5) .. 'cart:' .. cart_id)
  local fields = {}
  for index = 1, #flat, 2 do
    fields[flat[index]] = flat[index + 1]
  end
  if not fields.a then
    return {}
  end
  local is_packed, version, _, _, _, _, _, _, updated, extended, _, created, ttl, currency, more =
    pcall(cmsgpack.unpack, fields.a)
  if not is_packed or type(currency) ~= 'string' or more then
    return { 'unreadable' }
  end
  updated = created + updated
  extended = updated + extended
  local lines = {}
  for name, value in pairs(fields) do
    if string.sub(name, 1, 2) == 'l:' then
      local line = line_of(value, created, extended)
      if not line then
        return { 'unreadable' }
      end
      line.id = string.sub(name, 3)
      lines[#lines + 1] = line
    end
  end
  table.sort(lines, function(left, right)
    return left[1] < right[1]
  end)
  local told = { version, currency, created, updated, ttl }
  for _, line in ipairs(lines) do
    for _, value in ipairs({
      line.id, fields['p:' .. line.id] or '', line[2], line[3], line[4], line[5], line[6], line[7], line[1], line[8],
      line[9],
    }) do
      told[#told + 1] = value
    end
  end
  return told
end

local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local reply = { 'OK' }
for index = 1, #found, 2 do
  for _, value in ipairs({ found[index], found[index + 1], cart_of(found[index]) }) do
    reply[#reply + 1] = value
  end
end
return reply
