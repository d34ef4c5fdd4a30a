--[[
  payment_audit: a payment beside the indexes that its window and its holds must be in. Writes nothing.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', status, expires, due, <line_id, sku, held, expires, order_id>...} | {'NOTHING'} | {'FENCED'}
  Faults   none
  Cost     O(lines of the orders)
]]
--- @include call_begin
--- @include int
--- @include payment_load

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
local payment = payment_load(call, payment_id)
if not payment then
  return { 'NOTHING' }
end

local reply = {
  'OK', payment.status, payment.expires, redis.call('ZSCORE', call.prefix .. 'due', payment_id) or '0',
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
