--- @include hold_state_decode
--- @include hold_state_encode
--- @include int

-- Count units of a SKU that went from one holder to another or were given back, and tell by `rev` that something moved:
-- for scripts that take the SKU as it is. change, guest_change: of `held` and `guest_held`, in units.
local function sku_count(sku_key, change, guest_change)
  if change ~= 0 then
    redis.call('HINCRBY', sku_key, 'held', int(change))
  end
  local packed = redis.call('HGET', sku_key, 'hold_state')
  if packed then
    local guest_held, rev, earliest, latest = hold_state_decode(packed)
    packed = hold_state_encode(guest_held + guest_change, rev + 1, earliest, latest)
    redis.call('HSET', sku_key, 'hold_state', packed)
  end
end
