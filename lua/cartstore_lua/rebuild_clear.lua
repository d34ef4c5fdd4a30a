--[[
  rebuild_clear: remove what an engine of another history still holds, before the record is put in its place.
  Why atomic: a recoverer that slept must not remove what a later one has rebuilt.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2...] keys to remove
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', removed} | {'FENCED'}
  Faults   none
  Cost     O(keys)
]]
--- @include call_begin
--- @include int

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end

local removed = 0
for index = 2, #KEYS do
  removed = removed + redis.call('UNLINK', KEYS[index])
end
return { 'OK', int(removed) }
