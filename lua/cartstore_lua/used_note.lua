--[[
  used_note: note which payments there ever were, so that the engine knows that their keys were used, long after it
  forgot what they began. A page at a time, in the order of their ids; the gate's field `used` is the place so far.
  Why atomic: whoever goes on from a place that another has left, or that a rebuild has taken back, stops.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  epoch                  in which the place was read
  ARGV[5]  after                  the place that the page follows, '' for none
  ARGV[6]  payment ids            separated by spaces; none: all have been noted
  Returns  {'OK'} | {'RACED'} | {'FENCED'}
  Faults   none
  Cost     O(payments)
]]
--- @include call_begin
--- @include used_place

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if call.epoch ~= ARGV[4] or (redis.call('HGET', KEYS[1], 'used') or '') ~= ARGV[5] then
  return { 'RACED' }
end

local used_key, members, last = nil, {}, 'whole'
for payment_id in string.gmatch(ARGV[6], '%S+') do
  local key, member = used_place(call, payment_id)
  if key and (key ~= used_key or #members == 1000) then
    -- Neighbours are in the same set, which takes them at once.
    if used_key then
      redis.call('SADD', used_key, unpack(members))
    end
    used_key, members = key, {}
  end
  members[#members + 1] = member
  last = payment_id
end
if used_key then
  redis.call('SADD', used_key, unpack(members))
end
redis.call('HSET', KEYS[1], 'used', last)
return { 'OK' }
