--[[
  rebuild_cart: put a cart back from its snapshot, unheld, with a version that was never told before.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  currency
  ARGV[5]  created                ms
  ARGV[6]  updated                ms
  ARGV[7]  lifetime               of the cart, ms
  ARGV[8...] per line: line_id, quantity, price, revision, added, updated, properties
  Returns  {'OK'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the cart)
]]
--- @include call_begin
--- @include cart_load
--- @include cart_save

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if (#ARGV - 7) % 7 ~= 0 then
  return redis.error_reply('CARTBADARG lines')
end

-- A cart that has units waiting in a rebuilt order exists already, without lines.
local cart = cart_load(call, string.sub(KEYS[2], #call.prefix + 6))
cart.currency = ARGV[4]
cart.created = tonumber(ARGV[5])
cart.ttl = tonumber(ARGV[7])
for index = 8, #ARGV, 7 do
  local line_id = ARGV[index]
  local line = {
    quantity = tonumber(ARGV[index + 1]), held = 0, expires = 0, indexed = 0, latest = 0, first = 0, ttl = 0,
    price = tonumber(ARGV[index + 2]), revision = tonumber(ARGV[index + 3]), added = tonumber(ARGV[index + 4]),
    updated = tonumber(ARGV[index + 5]),
  }
  if ARGV[index + 6] ~= '' then
    line.new_properties = ARGV[index + 6]
  end
  cart.ordinal = cart.ordinal + 1
  line.ordinal = cart.ordinal
  cart.lines[line_id] = line
  cart.changed[line_id] = true
  cart.count = cart.count + 1
  cart.units = cart.units + line.quantity
  cart.subtotal = cart.subtotal + line.quantity * line.price
end
cart_save(call, cart, tonumber(ARGV[6]))
return { 'OK' }
