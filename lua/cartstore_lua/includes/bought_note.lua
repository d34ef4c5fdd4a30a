--- @include bought_add
--- @include sku_load

-- Count all units of a payment's orders against the purchase limits of their SKUs. payment: `list` as payment_load gives
-- it, `created` and `buyer` (identities, separated by spaces).
local function bought_note(call, payment)
  for _, order in ipairs(payment.list) do
    local units_of = {}
    for _, line in ipairs(order.lines) do
      local stock = sku_load(call, line.sku)
      if stock and stock.limit_units then
        units_of[line.sku] = (units_of[line.sku] or 0) + line.quantity
      end
    end
    for sku, units in pairs(units_of) do
      for identity in string.gmatch(payment.buyer, '%S+') do
        bought_add(call, sku_load(call, sku), identity, order.id, tonumber(payment.created), units)
      end
    end
  end
end
