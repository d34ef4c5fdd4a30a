--[[
  cart_audit: a cart's running totals beside its lines, and its holds beside the index. Writes nothing.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', lines, units, subtotal, held, waiting, counted lines, counted units, counted subtotal, counted held,
           counted waiting, differing, <line_id, sku, held, expires>...} | {'NOTHING'} | {'FENCED'}
           waiting: units that pending orders of the cart's owner hold
           differing: SKUs of which the hold periods count other units in orders than there are
  Faults   CARTUNREADABLE
  Cost     O(lines of the cart)
]]
--- @include call_begin
--- @include int
--- @include cart_load
--- @include cart_recount
--- @include line_sku

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  return { 'NOTHING' }
end
local cart = cart_load(call, string.sub(KEYS[2], #call.prefix + 6))
if not cart.exists or cart.is_damaged then
  return redis.error_reply('CARTUNREADABLE ' .. KEYS[2])
end

local reply = { 'OK' }
local function append_totals()
  for _, total in ipairs({ cart.count, cart.units, cart.subtotal, cart.held, cart.waiting }) do
    reply[#reply + 1] = int(total)
  end
end
append_totals()
local _, differing = cart_recount(call, cart)
append_totals()
reply[#reply + 1] = int(differing)
for line_id, line in pairs(cart.lines) do
  local sku = line_sku(line_id)
  local member = 'c\31' .. cart.id .. '\31' .. line_id
  if line.held > 0 and not redis.call('ZSCORE', call.prefix .. 'holds:' .. sku, member) then
    for _, value in ipairs({ line_id, sku, int(line.held), int(line.expires) }) do
      reply[#reply + 1] = value
    end
  end
end
return reply
