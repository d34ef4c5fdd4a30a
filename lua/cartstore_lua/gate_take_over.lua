--[[
  gate_take_over: shut the gate of an engine of the key layout before, for its own processes as well as for ours.
  Why atomic: a gate that was opened or shut since it was looked at stays as it is.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine; not compared, the gate carries one of the layout before
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  epoch                  of the gate as it was seen
  ARGV[5]  layout                 the one before
  Returns  {'OK'} | {'RACED'}
  Faults   none
  Cost     O(1)
]]
--- @include clock_ms
--- @include int

local gate = redis.call('HMGET', KEYS[1], 'epoch', 'layout', 'fenced_at')
if gate[1] ~= ARGV[4] or gate[2] ~= ARGV[5] then
  return { 'RACED' }
end
-- Scripts of layout 4 read `state`: without one they pass nowhere, and fence nothing.
redis.call('HDEL', KEYS[1], 'state')
redis.call(
  'HSET', KEYS[1], 'status', 'fenced', 'fenced_at', gate[3] or int(clock_ms(ARGV[2])),
  'fenced_because', 'The engine is taken over from an earlier version.'
)
return { 'OK' }
