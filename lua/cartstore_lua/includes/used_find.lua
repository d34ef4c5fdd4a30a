--- @include used_place

-- Whether a payment's id may have been used, and what it named forgotten since. Never "no" for one that was: an engine
-- that cannot tell says "yes" to every id. "Yes" also to one new id in some hundred thousand, in a shop that has sold
-- millions of times.
local function used_find(call, payment_id)
  if redis.call('HGET', call.gate_key, 'used') ~= 'whole' then
    return true
  end
  local key, member = used_place(call, payment_id)
  return key and redis.call('SISMEMBER', key, member) == 1
end
