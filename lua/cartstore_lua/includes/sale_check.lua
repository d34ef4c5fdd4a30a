--- @include bought_count
--- @include int

-- Whether the rules of a SKU that look beyond one line let a line have this quantity: the start of its sale, its maximum
-- over all lines of the cart, and what one customer may buy. For SKUs with has_sale_rules, before line_check.
-- has, wanted: the line's quantity, and what it is to become. others: units of the SKU in the cart's other lines.
-- Returns nil, or the refusal to give.
local function sale_check(call, cart_id, stock, has, wanted, others)
  if stock.starts and call.now < stock.starts and wanted >= has then
    return { 'NOT_YET_ON_SALE', int(stock.starts) }
  end
  if wanted < stock.min or wanted % stock.multiple ~= 0 then
    return nil -- line_check says so.
  end
  -- A cart that has too many, because lines came back, can be made smaller step by step.
  if stock.max > 0 and wanted + (wanted > has and others or 0) > stock.max then
    local rules = stock.min .. ' ' .. stock.max .. ' ' .. stock.multiple .. ' ' .. int(others)
    return { 'INVALID_QUANTITY', rules, others > 0 and int(math.max(0, stock.max - others)) or '' }
  end
  if stock.limit_units and wanted > has then
    local left = math.max(0, stock.limit_units - bought_count(call, stock, cart_id))
    if wanted + others > left then
      return {
        'PURCHASE_LIMIT', int(math.max(0, left - others)), int(wanted), int(stock.limit_units), int(stock.limit_window),
        int(left),
      }
    end
  end
  return nil
end
