--[[
  gate_extend_windows: give pending payments the time back in which nobody could pay, before the gate is opened.
  Why atomic: payment, `due` and the holds' index move together; a payment is given it once per epoch, so that
  a recoverer that died midway leaves the rest to the next.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  epoch                  of the gate as the recoverer saw it
  ARGV[4]  since                  ms, when the engine last showed a sign of life
  ARGV[5...] payment_ids
  Returns  {'OK', extended} | {'RACED'}
  Faults   CARTBADARG
  Cost     O(lines of the orders * log holds)
]]
--- @include clock_ms
--- @include int
--- @include payment_load
--- @include holding_refresh

local gate = redis.call('HMGET', KEYS[1], 'status', 'identity', 'epoch', 'lifetime_ms')
local since = tonumber(ARGV[4])
if not since then
  return redis.error_reply('CARTBADARG since')
end
if gate[3] ~= ARGV[3] or gate[1] == 'rebuilding' or (gate[1] ~= 'fenced' and gate[2] == ARGV[1]) then
  return { 'RACED' }
end

local call = { prefix = string.sub(KEYS[1], 1, -5), now = clock_ms(ARGV[2]), skus = {} }
local latest = call.now + tonumber(gate[4])
local extended = 0
for index = 5, #ARGV do
  local payment = payment_load(call, ARGV[index])
  local expires = payment and tonumber(payment.expires)
  if payment and payment.status == 'pending' and payment.extended_in ~= ARGV[3] and expires > since then
    -- The engine was alive when the payment began, whatever other sign is missing.
    local lost = call.now - math.max(since, tonumber(payment.created))
    local later = int(math.min(expires + math.max(0, lost), math.max(latest, expires)))
    redis.call('HSET', call.prefix .. 'payment:' .. ARGV[index], 'expires', later, 'extended_in', ARGV[3])
    redis.call('ZADD', call.prefix .. 'due', later, ARGV[index])
    for _, order in ipairs(payment.list) do
      for _, line in ipairs(order.lines) do
        if line.held > 0 then
          redis.call('ZADD', call.prefix .. 'holds:' .. line.sku, later, 'o\31' .. order.id)
          holding_refresh(call, line.sku)
        end
      end
    end
    extended = extended + 1
  end
end
return { 'OK', int(extended) }
