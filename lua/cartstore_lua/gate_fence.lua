--[[
  gate_fence: stop a partition's writes, because its outbox is not the one that the record was written from.
  Why atomic: a gate that was opened or shut by a recovery since the proof was made stays as it is.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  epoch                  in which the proof was made
  ARGV[5]  reason                 for people to read
  Returns  {'OK', fenced} | {'FENCED'}
  Faults   none
  Cost     O(1)
]]
--- @include call_begin
--- @include int

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if call.epoch ~= ARGV[4] then
  return { 'OK', '0' }
end
redis.call('HSET', KEYS[1], 'status', 'fenced', 'fenced_at', int(call.now), 'fenced_because', ARGV[5])
return { 'OK', '1' }
