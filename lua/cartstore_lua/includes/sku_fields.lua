-- A SKU's catalog fields from their text: revision price currency active policy hold_policy hold_ttl min max multiple.
-- Given as what a table of its counters looks up when it has not got a name itself. A function, which lives on from
-- call to call, keeps what it has read, by the text itself; nobody changes it.
local fields_known, fields_count = {}, 0

local function sku_fields(text)
  local known = fields_known[text]
  if known then
    return known
  end
  local revision, price, currency, active, policy, hold_policy, ttl, min, max, multiple =
    string.match(text, '^(%d+) (%d+) (%u+) ([01]) (%a+) ([%a_]+) (%d+) (%d+) (%d+) (%d+)$')
  known = {
    __index = {
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
    },
  }
  if fields_count == 2000 then
    fields_known, fields_count = {}, 0
  end
  fields_known[text] = known
  fields_count = fields_count + 1
  return known
end
