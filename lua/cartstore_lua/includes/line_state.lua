-- What a line's SKU is to its buyer now, as a sum: 1 when it is on sale, 2 when its options, product or currency changed
-- since the revision that the buyer saw, 4 when it is sold in another currency than the cart's.
local function line_state(stock, revision, currency, now)
  local is_on_sale = stock.active and not (stock.starts and now < stock.starts)
  return (is_on_sale and 1 or 0) + (revision < stock.terms_revision and 2 or 0)
    + (stock.currency ~= currency and 4 or 0)
end
