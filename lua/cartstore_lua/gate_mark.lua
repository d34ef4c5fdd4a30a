--[[
  gate_mark: tell every process how much room the disk has, in the state of an open gate.
  Why atomic: a gate that was fenced or is rebuilt meanwhile keeps its state.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine; not compared, the disk is the same one
  ARGV[2]  state                  'open'; 'low': nothing new is taken in; 'out': nothing is written
  Returns  {'OK', state}          as it is now, '' without a gate
  Faults   CARTBADARG
  Cost     O(1)
]]

local marked = ARGV[2]
if marked ~= 'open' and marked ~= 'low' and marked ~= 'out' then
  return redis.error_reply('CARTBADARG state')
end
local state = redis.call('HGET', KEYS[1], 'status')
if state ~= marked and (state == 'open' or state == 'low' or state == 'out') then
  -- The first write is an HDEL, of what only a shut gate has, so the mark is set at maxmemory too.
  redis.call('HDEL', KEYS[1], 'progress')
  redis.call('HSET', KEYS[1], 'status', marked)
  state = marked
end
return { 'OK', state or '' }
