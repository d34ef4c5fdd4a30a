-- A SKU's catalog fields from their text: revision price currency active policy hold_policy hold_ttl min max multiple
-- terms_revision, and only where the SKU has them ` starts=<ms>` (start of its sale), ` limit=<units>/<ms>` (what one
-- customer may buy within a window) and ` sale=<price>/<from>/<to>` (a price that holds from one time until before the
-- other, ms; 0: open on that side). `price` is the one that holds now.
-- Given as what a table of its counters looks up when it has not got a name itself. A function, which lives on from
-- call to call, keeps what it has read, by the text itself; nobody changes it. It keeps few and keeps them small: the
-- interpreter's collector walks through everything that lives on, over and over, and waits for memory where that is
-- more than the CPU's caches hold beside the data of a full engine (docs/decisions/0008).
local fields_known, sales_known, fields_count = {}, {}, 0

local function sku_fields(text, now)
  local known = fields_known[text]
  if known then
    return known
  end
  -- Kept apart, so that a SKU without a sale asks for nothing more.
  local sale = sales_known[text]
  if sale then
    return now >= sale.from and now < sale.to and sale.during or sale.regular
  end
  local revision, price, currency, active, policy, hold_policy, ttl, min, max, multiple,
    terms_revision, rest = string.match(
      text, '^(%d+) (%d+) (%u+) ([01]) (%a+) ([%a_]+) (%d+) (%d+) (%d+) (%d+) (%d+)(.*)$'
    )
  local limit_units, limit_window = string.match(rest, ' limit=(%d+)/(%d+)')
  known = {
    revision = tonumber(revision),
    price = tonumber(price),
    currency = currency,
    active = active == '1',
    policy = policy,
    hold_policy = hold_policy,
    ttl = tonumber(ttl),
    min = tonumber(min),
    max = tonumber(max),
    multiple = tonumber(multiple),
    terms_revision = tonumber(terms_revision),
    starts = tonumber(string.match(rest, ' starts=(%d+)') or ''),
    limit_units = tonumber(limit_units or ''),
    limit_window = tonumber(limit_window or ''),
  }
  -- Whether sale_check has anything to look at.
  known.has_sale_rules = known.max > 0 or known.starts ~= nil or known.limit_units ~= nil
  known.__index = known
  if fields_count == 256 then
    fields_known, sales_known, fields_count = {}, {}, 0
  end
  fields_count = fields_count + 1
  local sale_price, from, to = string.match(rest, ' sale=(%d+)/(%d+)/(%d+)')
  if not sale_price then
    fields_known[text] = known
    return known
  end
  local during = {}
  for name, value in pairs(known) do
    during[name] = value
  end
  during.price = tonumber(sale_price)
  during.__index = during
  to = tonumber(to)
  sales_known[text] = { regular = known, during = during, from = tonumber(from), to = to > 0 and to or math.huge }
  return sku_fields(text, now)
end
