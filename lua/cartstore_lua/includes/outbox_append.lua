--- @include int

-- Append one event in the same atomic step as the change it tells of. The id is the gate's next sequence
-- number, and the nonce tells this history from another one that issued the same number.
-- subject: payment id or stock reference key that the event is about, for ageing after it was archived.
-- cart_version: of the cart that the same step changed, 0 for none; tells the archived cart whether it has seen it.
local function outbox_append(call, kind, body, subject, cart_version)
  call.events = call.events + 1
  local seq = redis.call('HINCRBY', call.gate_key, 'seq', 1)
  call.position = call.epoch .. '-' .. int(seq)
  redis.call(
    'XADD', call.prefix .. 'outbox', call.position, 'nonce', call.nonce .. '.' .. int(call.events), 'type', kind,
    'at', int(call.now), 'subject', subject, 'cart_version', int(cart_version), 'body', cjson.encode(body)
  )
  return call.position
end
