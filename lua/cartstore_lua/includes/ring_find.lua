-- Look an idempotency key up in the cart's ring of remembered results.
-- Returns nil when it is not there, else the reply to give: the first result, or IDEMPOTENCY_KEY_REUSED.
local function ring_find(cart_key, key, fingerprint)
  if key == '' then
    return nil
  end
  local slots = redis.call(
    'HMGET', cart_key, 'i0', 'i1', 'i2', 'i3', 'i4', 'i5', 'i6', 'i7', 'i8', 'i9', 'i10', 'i11', 'i12', 'i13',
    'i14', 'i15'
  )
  for index = 1, 16 do
    if slots[index] then
      -- The key's length stands before it, because a key may hold any character.
      local print, length, rest = string.match(slots[index], '^([^\31]*)\31(%d+)\31(.*)$')
      if tonumber(length) == #key and string.sub(rest, 1, #key) == key then
        if print ~= fingerprint then
          return { 'IDEMPOTENCY_KEY_REUSED' }
        end
        local decoded = cjson.decode(string.sub(rest, #key + 1))
        table.insert(decoded, 1, 'REPLAYED')
        return decoded
      end
    end
  end
  return nil
end
