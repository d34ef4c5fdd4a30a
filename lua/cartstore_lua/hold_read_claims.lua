--[[
  hold_read_claims: what some carts and orders say they hold, whatever index and counters say. Writes nothing.
  An order claims until its payment is at an end. Each cart or order is read whole in one instant, and one that cannot be
  read is a fault: without its claim no sum proves anything.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2...] cart or order hashes {ns:p}:cart:<cart_id>, {ns:p}:order:<order_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', <number of the hash, sku, units, guest>...} | {'FENCED'}
           number: of its key, from 1 for KEYS[2]
  Faults   CARTUNREADABLE
  Cost     O(lines of the carts and orders)
]]
--- @include call_begin
--- @include int
--- @include line_decode
--- @include line_sku
--- @include order_is_ended

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end

local reply = { 'OK' }
local function claim(number, sku, units, owner)
  for _, value in ipairs({ int(number), sku, units, string.sub(owner, 1, 2) == 'g.' and '1' or '0' }) do
    reply[#reply + 1] = value
  end
end
for index = 2, #KEYS do
  local cart_id = string.match(KEYS[index], '^cart:(.+)$', #call.prefix + 1)
  local flat = redis.call('HGETALL', KEYS[index])
  local fields = {}
  for place = 1, #flat, 2 do
    fields[flat[place]] = flat[place + 1]
  end
  local lines = 0
  local claims = fields.status == 'pending' and not order_is_ended(call.prefix, fields.payment)
  for name, text in pairs(fields) do
    if cart_id and string.sub(name, 1, 2) == 'l:' then
      local line = line_decode(text, 0, 0, 0)
      if not line then
        return redis.error_reply('CARTUNREADABLE ' .. KEYS[index])
      end
      if line.held > 0 then
        claim(index - 1, line_sku(string.sub(name, 3)), int(line.held), cart_id)
      end
    elseif not cart_id and fields.status == 'pending' and string.match(name, '^l%d+$') then
      local sku, held = string.match(text, '^[^\31]+\31([^\31]+)\31%d+\31(%d+)\31')
      if not held or not fields.cart then
        return redis.error_reply('CARTUNREADABLE ' .. KEYS[index])
      end
      lines = lines + 1
      if claims and held ~= '0' then
        claim(index - 1, sku, held, fields.cart)
      end
    end
  end
  -- An order that lost its status may be pending, and one that lost a line claims more than is seen.
  local is_known = #flat == 0 or fields.status and (fields.status ~= 'pending' or lines == tonumber(fields.count or ''))
  if not cart_id and not is_known then
    return redis.error_reply('CARTUNREADABLE ' .. KEYS[index])
  end
end
return reply
