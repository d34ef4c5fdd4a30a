--[[
  rebuild_beat: a sign of life of the rebuilder, so that others know that they need not take over, and how far it is.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  progress               for people to read
  Returns  {'OK'} | {'FENCED'}
  Faults   none
  Cost     O(1)
]]
--- @include call_begin

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
redis.call('HINCRBY', KEYS[1], 'beat', 1)
redis.call('HSET', KEYS[1], 'progress', ARGV[4])
return { 'OK' }
