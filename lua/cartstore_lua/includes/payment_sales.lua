-- What a payment sells. payment: as payment_load gives it.
-- Returns units per order and SKU, in the order of the lines, and per SKU what of them must come out of stock. Untracked
-- units are in neither.
local function payment_sales(payment)
  local sales, needs = {}, {}
  for _, order in ipairs(payment.list) do
    local by_sku = {}
    for _, line in ipairs(order.lines) do
      if line.mode ~= 'untracked' then
        local sale = by_sku[line.sku]
        if not sale then
          sale = { order_id = order.id, sku = line.sku, quantity = 0, held = 0, first = line.first }
          by_sku[line.sku] = sale
          sales[#sales + 1] = sale
        end
        sale.quantity = sale.quantity + line.quantity
        sale.held = sale.held + line.held
        needs[line.sku] = (needs[line.sku] or 0) + line.held
      end
    end
  end
  return sales, needs
end
