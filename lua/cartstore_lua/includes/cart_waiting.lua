--- @include payment_state

-- Units that the pending orders of a cart's owner hold, added up from the orders themselves; nil when one of them cannot
-- be read, or has lost its payment. And by SKU, how many (`units`) and since when (`first`).
local function cart_waiting(call, cart_id)
  local units, by_sku = 0, {}
  for _, payment_id in ipairs(redis.call('ZRANGE', call.prefix .. 'orders:' .. cart_id, 0, -1)) do
    local payment_key = call.prefix .. 'payment:' .. payment_id
    local status = payment_state(payment_key)
    local order_ids = status == 'pending' and redis.call('HGET', payment_key, 'orders') or ''
    local first_order = call.prefix .. 'order:' .. 'o' .. string.sub(payment_id, 2) .. '-1'
    if not status or not order_ids or (status == 'nothing' and redis.call('EXISTS', first_order) == 1) then
      return nil
    end
    for order_id in string.gmatch(order_ids, '%S+') do
      local order_key = call.prefix .. 'order:' .. order_id
      local count = redis.call('TYPE', order_key).ok == 'hash' and tonumber(redis.call('HGET', order_key, 'count') or '')
      for index = 1, count or 0 do
        local text = redis.call('HGET', order_key, 'l' .. index) or ''
        local sku, held, first = string.match(
          text, '^[^\31]+\31([^\31]+)\31%d+\31(%d+)\31%a+\31%d+\31%d+\31(%d+)\31'
        )
        count = sku and count
        units = units + (tonumber(held) or 0)
        if sku and tonumber(held) > 0 then
          local its = by_sku[sku] or { units = 0, first = tonumber(first) }
          its.units = its.units + tonumber(held)
          by_sku[sku] = its
        end
      end
      if not count then
        return nil
      end
    end
  end
  return units, by_sku
end
