--[[
  gate_open: let the scripts work on this engine: after a first start, and after every recovery.
  Why atomic: of two recoverers only the one that saw the gate as it still is may open it.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  seen state             '' for an absent gate
  ARGV[3]  seen identity          '' for an absent gate; the token after a rebuild
  ARGV[4]  seen epoch             '' for an absent gate
  ARGV[5]  epoch                  to open with; at least the seen one
  ARGV[6]  seq                    of the last event, at least
  ARGV[7]  change                 last change number, at least
  ARGV[8]  lifetime               ms, the longest of a hold or a payment window
  ARGV[9]  partitions
  ARGV[10] layout                 version of the key layout
  Returns  {'OK'} | {'RACED'} | {'LAYOUT', partitions, layout}
  Faults   none
  Cost     O(1)
]]
--- @include int

local gate = redis.call(
  'HMGET', KEYS[1], 'status', 'identity', 'epoch', 'seq', 'change', 'lifetime_ms', 'partitions', 'layout'
)
if (gate[1] or '') ~= ARGV[2] or (gate[2] or '') ~= ARGV[3] or (gate[3] or '') ~= ARGV[4] then
  return { 'RACED' }
end
if gate[7] and (gate[7] ~= ARGV[9] or gate[8] ~= ARGV[10]) then
  return { 'LAYOUT', gate[7], gate[8] }
end
redis.call(
  'HSET', KEYS[1], 'status', 'open', 'identity', ARGV[1], 'epoch', ARGV[5],
  'seq', int(math.max(tonumber(gate[4] or 0), tonumber(ARGV[6]))),
  'change', int(math.max(tonumber(gate[5] or 0), tonumber(ARGV[7]))),
  'lifetime_ms', int(math.max(tonumber(gate[6] or 0), tonumber(ARGV[8]))),
  'partitions', ARGV[9], 'layout', ARGV[10]
)
redis.call('HDEL', KEYS[1], 'fenced_at', 'fenced_because', 'progress')
if not gate[1] then
  -- Only a shop in which nobody has ever checked out opens an engine that has no gate.
  redis.call('HSET', KEYS[1], 'used', 'whole')
end
return { 'OK' }
