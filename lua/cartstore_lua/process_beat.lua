--[[
  process_beat: note that a process is alive, and give the latest beats of all processes.
  Passes whatever the gate says: a fenced or rebuilding partition is when operators look. The first write removes
  something, so an engine at maxmemory carries it out as well. Without a state it only proves that the engine takes
  writes: it removes an entry that is not there, which costs no write to the log.
  Why atomic: the beat and the clock that its age is measured by are of one instant.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  beats hash             {ns:p}:beats
  ARGV[1]  identity               of the engine, as the connection learned it; not compared
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  process                <kind>:<host>:<pid>:<run>
  ARGV[5]  state                  what it says of itself; '' removes its entry
  ARGV[6]  kept                   ms after its last beat, then a process is forgotten
  ARGV[7]  processes max          of more than these the oldest are forgotten
  Returns  {'OK', now, process, at, count, state, ...}
  Faults   CARTBADARG
  Cost     O(processes)
]]
--- @include clock_ms
--- @include int

local process, state = ARGV[4], ARGV[5]
local kept, processes_max = tonumber(ARGV[6]), tonumber(ARGV[7])
if process == '' or not kept or not processes_max then
  return redis.error_reply('CARTBADARG process, kept or processes max')
end

local now = clock_ms(ARGV[2])
local found = redis.call('HGETALL', KEYS[2])
local known, gone, count = {}, { process }, 0
for index = 1, #found, 2 do
  local at, number, rest = string.match(found[index + 1], '^(%d+) (%d+) (.*)$')
  at = tonumber(at)
  if found[index] == process then
    count = tonumber(number) or 0
  elseif not at or at < now - kept then
    gone[#gone + 1] = found[index]
  else
    -- The clock was set back: counted from now on, so that a process that is gone ages all the same.
    known[#known + 1] = { found[index], math.min(at, now), tonumber(number), rest, at > now }
  end
end
if state ~= '' then
  known[#known + 1] = { process, now, count + 1, state, true }
end
table.sort(known, function(one, other)
  return one[2] > other[2]
end)
while #known > processes_max do
  gone[#gone + 1] = table.remove(known)[1]
end

-- Nothing is written for a mere question, nor while the disk has no room.
local writes = state ~= '' and redis.call('HGET', KEYS[1], 'status') ~= 'out'
redis.call('HDEL', KEYS[2], unpack(writes and gone or { state == '' and process or '' }))
local reply = { 'OK', int(now) }
for _, beat in ipairs(known) do
  if beat[5] and writes then
    redis.call('HSET', KEYS[2], beat[1], int(beat[2]) .. ' ' .. int(beat[3]) .. ' ' .. beat[4])
  end
  reply[#reply + 1] = beat[1]
  reply[#reply + 1] = int(beat[2])
  reply[#reply + 1] = int(beat[3])
  reply[#reply + 1] = beat[4]
end
return reply
