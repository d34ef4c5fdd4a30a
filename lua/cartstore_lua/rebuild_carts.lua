--[[
  rebuild_carts: put carts back from their snapshots, unheld, each with a version that was never told before.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2...] cart hashes          {ns:p}:cart:<cart_id>
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4...] per cart: JSON list of currency, created (ms), updated (ms), lifetime (ms), watched until (ms),
           merged into and a list of lines, each a list of line_id, quantity, price, revision, added, updated, properties,
           first hold and last hold's end (ms; 0: not held of late)
  Returns  {'OK'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the carts)
]]
--- @include call_begin
--- @include cart_load
--- @include cart_save
--- @include line_sku
--- @include period_ended
--- @include period_note

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if #ARGV - 3 ~= #KEYS - 1 then
  return redis.error_reply('CARTBADARG as many carts as keys')
end

for index = 2, #KEYS do
  local snapshot = cjson.decode(ARGV[index + 2])
  -- A cart that has units waiting in a rebuilt order exists already, without lines.
  local cart = cart_load(call, string.sub(KEYS[index], #call.prefix + 6))
  cart.currency, cart.created, cart.ttl = snapshot[1], snapshot[2], snapshot[4]
  cart.watched_until, cart.merged_into = snapshot[5], snapshot[6]
  for sku in pairs(cart.periods) do
    cart.periods_changed[sku] = true
  end
  for _, its in ipairs(snapshot[7]) do
    local line = {
      quantity = its[2], held = 0, expires = 0, indexed = 0, latest = 0, first = 0, ttl = 0, price = its[3],
      revision = its[4], added = its[5], updated = its[6],
    }
    if its[7] ~= '' then
      line.new_properties = its[7]
    end
    cart.ordinal = cart.ordinal + 1
    line.ordinal = cart.ordinal
    cart.lines[its[1]] = line
    if its[8] > 0 then
      -- Holds are taken again later, if they are; until then this one counts as ended.
      period_note(call, cart, line_sku(its[1]), its[8], its[9], 0)
    end
    cart.changed[its[1]] = true
    cart.count = cart.count + 1
    cart.units = cart.units + line.quantity
    cart.subtotal = cart.subtotal + line.quantity * line.price
  end
  cart_save(call, cart, snapshot[3])
end
return { 'OK' }
