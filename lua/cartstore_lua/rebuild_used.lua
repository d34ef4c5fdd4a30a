--[[
  rebuild_used: note which payments there ever were, so that the engine knows that their keys were used, long after
  it forgot what they began.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  whole                  '1': with these, all are noted
  ARGV[5]  payment ids            in their order, separated by spaces
  Returns  {'OK'} | {'FENCED'}
  Faults   none
  Cost     O(payments)
]]
--- @include call_begin
--- @include used_place

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end

local used_key, members = nil, {}
for payment_id in string.gmatch(ARGV[5], '%S+') do
  local key, member = used_place(call, payment_id)
  if key and key ~= used_key or #members == 1000 then
    -- Neighbours are in the same set, which takes them at once.
    if used_key then
      redis.call('SADD', used_key, unpack(members))
    end
    used_key, members = key, {}
  end
  members[#members + 1] = member
end
if used_key then
  redis.call('SADD', used_key, unpack(members))
end
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], 'used', 'whole')
end
return { 'OK' }
