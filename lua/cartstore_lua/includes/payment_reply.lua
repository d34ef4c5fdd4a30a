--- @include int

-- {tag, now, position of its last event, payment fields, order fields...} as the engine has it now.
local function payment_reply(call, tag, payment_id)
  local payment_key = call.prefix .. 'payment:' .. payment_id
  local payment = redis.call('HGETALL', payment_key)
  local reply = { tag, int(call.now), redis.call('HGET', payment_key, 'event') or '', payment }
  for order_id in string.gmatch(redis.call('HGET', payment_key, 'orders') or '', '%S+') do
    reply[#reply + 1] = redis.call('HGETALL', call.prefix .. 'order:' .. order_id)
  end
  return reply
end
