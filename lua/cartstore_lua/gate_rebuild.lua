--[[
  gate_rebuild: shut the gate for everybody but one recoverer, who will put the partition back from PostgreSQL.
  Why atomic: of two recoverers the one with the higher epoch goes on; the other's calls stop passing in
  the same instant, however late it wakes. A gate that was opened or shut since it was looked at stays as it is.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               the rebuild's token, in place of an engine's identity
  ARGV[2]  epoch                  that the rebuild will open with; drawn from PostgreSQL, so no two are equal
  ARGV[3]  seq                    of the last event that PostgreSQL applied
  ARGV[4]  change                 to start from, at least
  ARGV[5]  lifetime               ms, the longest of a hold or a payment window
  ARGV[6]  partitions
  ARGV[7]  layout                 version of the key layout
  ARGV[8]  seen epoch             of the gate as the recoverer saw it, 0 for an absent one
  Returns  {'OK', fenced at} | {'RACED'}
  Faults   CARTBADARG
  Cost     O(1)
]]
--- @include int

local epoch = tonumber(ARGV[2])
if not epoch then
  return redis.error_reply('CARTBADARG epoch')
end
local gate = redis.call('HMGET', KEYS[1], 'epoch', 'change', 'lifetime_ms', 'fenced_at')
if tonumber(gate[1] or 0) ~= tonumber(ARGV[8]) or (gate[1] and tonumber(gate[1]) >= epoch) then
  return { 'RACED' }
end

redis.call(
  'HSET', KEYS[1], 'status', 'rebuilding', 'identity', ARGV[1], 'epoch', ARGV[2], 'seq', ARGV[3],
  'change', int(math.max(tonumber(gate[2] or 0), tonumber(ARGV[4]))),
  'lifetime_ms', int(math.max(tonumber(gate[3] or 0), tonumber(ARGV[5]))),
  'partitions', ARGV[6], 'layout', ARGV[7]
)
-- Until all payments that there ever were are noted again.
redis.call('HDEL', KEYS[1], 'used')
return { 'OK', gate[4] or '0' }
