--- @include int
--- @include outbox_last

-- Append one event in the same atomic step as the change that it describes. `previous` names the entry before it, as
-- the stream has it, so that the record sees a lost or foreign entry. The sequence number is above that entry's and
-- above the gate's. The gate's is written last: if XADD is refused, no number is used up. It is written once before, as
-- it is, so that it cannot be refused after the event.
-- subject: payment id or stock reference key that the event is about; outbox_trim lets it expire once it is archived.
-- cart_version: version of the cart that the same step changed, 0 for none; tells whether a snapshot has the change.
local function outbox_append(call, kind, body, subject, cart_version)
  local last = call.last_event or outbox_last(call.prefix)
  local gate_seq = redis.call('HGET', call.gate_key, 'seq') or '0'
  local seq = math.max(last.seq, tonumber(gate_seq)) + 1
  call.events = call.events + 1
  call.position = call.epoch .. '-' .. int(seq)
  local nonce = call.nonce .. '.' .. int(call.events)
  redis.call('HSET', call.gate_key, 'seq', gate_seq)
  redis.call(
    'XADD', call.prefix .. 'outbox', call.position, 'nonce', nonce, 'type', kind, 'at', int(call.now),
    'subject', subject, 'cart_version', int(cart_version), 'previous', last.name, 'body', cjson.encode(body)
  )
  call.last_event = { seq = seq, name = call.position .. ' ' .. nonce }
  redis.call('HSET', call.gate_key, 'seq', int(seq))
  return call.position
end
