-- Whether an owner who has recorded `period` of a SKU, and holds none of it now, may start a new one: the rest is over.
-- An end that is further ahead than a rest lasts shows that the clock was set back, and proves nothing.
local function period_is_over(period, now, rest)
  return period.ordered == 0 and (now >= period.ended + rest or period.ended > now + rest)
end
