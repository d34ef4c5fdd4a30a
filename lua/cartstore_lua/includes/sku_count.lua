--- @include hold_state_decode
--- @include hold_state_encode
--- @include int

-- Count units of a SKU that went from one holder to another or were given back, and tell by `rev` that something moved:
-- for scripts that take the SKU as it is. All counters change in one command, so that none of them is ever written
-- without the others. change, guest_change: of `held` and `guest_held`, in units. on_hand_change, owed_change: of `on_hand`
-- and `backordered`; 0 leaves them as they are.
-- A SKU that the engine lost stays lost: counters alone would look like a SKU without stock.
local function sku_count(sku_key, change, guest_change, on_hand_change, owed_change)
  local read = redis.call('HMGET', sku_key, 'held', 'hold_state', 'on_hand', 'backordered')
  if not read[1] or not read[2] then
    return
  end
  local guest_held, rev, earliest, latest = hold_state_decode(read[2])
  local fields = {
    'held', int(tonumber(read[1]) + change),
    'hold_state', hold_state_encode(guest_held + guest_change, rev + 1, earliest, latest),
  }
  if on_hand_change ~= 0 then
    fields[5], fields[6] = 'on_hand', int(tonumber(read[3]) + on_hand_change)
  end
  if owed_change ~= 0 then
    fields[#fields + 1], fields[#fields + 2] = 'backordered', int(tonumber(read[4]) + owed_change)
  end
  redis.call('HSET', sku_key, unpack(fields))
end
