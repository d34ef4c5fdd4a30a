--[[
  gate_open: let the scripts work on this engine: after a first start, and after every recovery.
  Why atomic: of two recoverers only the one that saw the gate as it still is may open it.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  seen state             '' for an absent gate
  ARGV[3]  seen epoch             '' for an absent gate
  ARGV[4]  epoch                  to open with; greater than the seen one
  ARGV[5]  seq                    of the last event, at least
  ARGV[6]  change                 last change number, at least
  ARGV[7]  lifetime               ms, the longest of a hold or a payment window
  ARGV[8]  partitions
  ARGV[9]  layout                 version of the key layout
  Returns  {'OK'} | {'RACED'} | {'LAYOUT', partitions, layout}
  Faults   none
  Cost     O(1)
]]
--- @include int

local gate = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'seq', 'change', 'lifetime_ms', 'partitions', 'layout')
if (gate[1] or '') ~= ARGV[2] or (gate[2] or '') ~= ARGV[3] then
  return { 'RACED' }
end
if gate[6] and (gate[6] ~= ARGV[8] or gate[7] ~= ARGV[9]) then
  return { 'LAYOUT', gate[6], gate[7] }
end
redis.call(
  'HSET', KEYS[1], 'state', 'open', 'identity', ARGV[1], 'epoch', ARGV[4],
  'seq', int(math.max(tonumber(gate[3] or 0), tonumber(ARGV[5]))),
  'change', int(math.max(tonumber(gate[4] or 0), tonumber(ARGV[6]))),
  'lifetime_ms', int(math.max(tonumber(gate[5] or 0), tonumber(ARGV[7]))),
  'partitions', ARGV[8], 'layout', ARGV[9]
)
return { 'OK' }
