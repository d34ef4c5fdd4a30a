--[[
  cart_dump: carts that changed after a change number, for their snapshots. Writes nothing.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  activity index         {ns:p}:activity
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  after                  change number; carts with a later one
  ARGV[5]  limit                  carts
  Returns  {'OK', now, epoch, position, <cart_id, change, cart>...} | {'FENCED'}
           position: of the outbox's last entry, '0-0' without one; the gate's seq may be ahead of it
           cart: {} | {version, currency, created, updated, lifetime, watched until, merged into,
           <line_id, properties, quantity, held, held until, first held, price, revision, ordinal, added, updated>...}
  Faults   CARTUNREADABLE
  Cost     O(limit * lines of a cart)
]]
--- @include call_begin
--- @include int
--- @include cart_load
--- @include line_order
--- @include line_sku
--- @include outbox_last

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local position = string.match(outbox_last(call.prefix).name, '^%S+') or '0-0'
local reply = { 'OK', int(call.now), call.epoch, position }
-- What a hold lasts is told as it was written: a clock that stepped back since has no say in a record.
local as_written = { prefix = call.prefix, now = math.huge }
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[4], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[5])
for index = 1, #found, 2 do
  local cart, told = cart_load(as_written, found[index]), {}
  if cart.is_damaged then
    return redis.error_reply('CARTUNREADABLE ' .. cart.key)
  end
  if cart.exists then
    told = { cart.version, cart.currency, cart.created, cart.updated, cart.ttl, cart.watched_until, cart.merged_into }
    for _, line_id in ipairs(line_order(cart)) do
      local line = cart.lines[line_id]
      local first, until_ms = line.first, line.expires
      local period = line.held == 0 and cart.periods[line_sku(line_id)]
      if period then
        -- Of a line that holds nothing: since when its SKU was held, and when that ended. Its rest may not be over.
        first, until_ms = period.first, period.ended
      end
      for _, value in ipairs({
        line_id, cart.properties[line_id] or '', line.quantity, line.held, until_ms, first, line.price,
        line.revision, line.ordinal, line.added, line.updated,
      }) do
        told[#told + 1] = value
      end
    end
  end
  for _, value in ipairs({ found[index], found[index + 1], told }) do
    reply[#reply + 1] = value
  end
end
return reply
