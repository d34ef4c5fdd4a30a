--[[
  payment_audit: a payment beside the indexes that its window and its holds must be in. Writes nothing.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', status, expires, due, event, <line_id, sku, held, expires, order_id>...} | {'NOTHING'}
           {'FENCED'}
           event: position of its last one; 0-0 when it was put back from the record and had none since
  Faults   CARTUNREADABLE
  Cost     O(lines of the orders)
]]
--- @include call_begin
--- @include int
--- @include payment_load
--- @include payment_state

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
local status = payment_state(KEYS[2])
if status == 'nothing' then
  return { 'NOTHING' }
end
local read = redis.call('HMGET', KEYS[2], 'event', 'orders')
local is_readable = status and string.match(read[1] or '', '^%d+%-%d+$') and read[2]
for order_id in string.gmatch(read[2] or '', '%S+') do
  is_readable = is_readable and redis.call('HEXISTS', call.prefix .. 'order:' .. order_id, 'count') == 1
end
if not is_readable then
  return redis.error_reply('CARTUNREADABLE ' .. KEYS[2])
end
local payment = payment_load(call, payment_id)

local reply = {
  'OK', payment.status, payment.expires, redis.call('ZSCORE', call.prefix .. 'due', payment_id) or '0',
  payment.event,
}
if payment.status == 'pending' then
  for _, order in ipairs(payment.list) do
    for _, line in ipairs(order.lines) do
      if line.held > 0 and not redis.call('ZSCORE', call.prefix .. 'holds:' .. line.sku, 'o\31' .. order.id) then
        for _, value in ipairs({ line.line_id, line.sku, int(line.held), payment.expires, order.id }) do
          reply[#reply + 1] = value
        end
      end
    end
  end
end
return reply
