-- The inverse of period_decode.
local function period_encode(period, created)
  return cmsgpack.pack(period.first - created, period.ended - created, period.ordered)
end
