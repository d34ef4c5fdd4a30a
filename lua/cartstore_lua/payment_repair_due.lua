--[[
  payment_repair_due: put a pending payment into `due` with the end of its window, or take another one out.
  Why atomic: whether it is pending is read in the step that changes the index. A payment that is there and whose
  status or window cannot be read is left: it may be pending.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  KEYS[3]  due index              {ns:p}:due
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', changed} | {'FENCED'}
  Faults   CARTUNREADABLE
  Cost     O(log payments)
]]
--- @include call_begin
--- @include int
--- @include payment_state

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
local status, expires = payment_state(KEYS[2])
if not status then
  return redis.error_reply('CARTUNREADABLE ' .. KEYS[2])
end
if status == 'pending' then
  return { 'OK', int(redis.call('ZADD', KEYS[3], 'CH', expires, payment_id)) }
end
return { 'OK', int(redis.call('ZREM', KEYS[3], payment_id)) }
