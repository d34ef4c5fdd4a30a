-- When the last window of a cart's pending orders is over; never before now. Units of one whose window cannot be read
-- are waited for no longer than that.
local function orders_end(call, cart_id)
  local latest = call.now
  for _, payment_id in ipairs(redis.call('ZRANGE', call.prefix .. 'orders:' .. cart_id, 0, -1)) do
    local known = redis.call('HMGET', call.prefix .. 'payment:' .. payment_id, 'status', 'expires')
    if known[1] == 'pending' then
      latest = math.max(latest, tonumber(known[2] or '') or 0)
    end
  end
  return latest
end
