-- An integer as text: tostring turns large numbers exponential.
local function int(number)
  return string.format('%.0f', number)
end
