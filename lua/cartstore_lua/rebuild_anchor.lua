--[[
  rebuild_anchor: put the last applied event's position and nonce into an empty outbox, as the proof that what
  follows continues the history that PostgreSQL has.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  outbox stream          {ns:p}:outbox
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  position               of the last applied event
  ARGV[5]  nonce of that event
  Returns  {'OK'} | {'FENCED'}
  Faults   none
  Cost     O(1)
]]
--- @include call_begin
--- @include int

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end

redis.call(
  'XADD', KEYS[2], ARGV[4], 'nonce', ARGV[5], 'type', 'anchor', 'at', int(call.now), 'subject', '',
  'cart_version', '0', 'body', '{}'
)
return { 'OK' }
