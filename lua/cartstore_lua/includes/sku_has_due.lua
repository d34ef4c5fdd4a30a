-- Whether a hold of a SKU may be due: over, or later than the longest lifetime because the clock stepped back.
-- The hot scripts only ask and leave the release to a call of its own, since most of the time there is none.
local function sku_has_due(call, stock)
  return stock.earliest > 0 and (stock.earliest <= call.now or stock.latest > call.now + call.lifetime)
end
