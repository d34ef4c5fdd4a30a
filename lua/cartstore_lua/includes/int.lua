-- An integer as text: tostring turns large numbers exponential. Adding 0 makes 0 of -0, whose text no engine
-- takes for an integer. Commands and replies take numbers as they are; only texts that we build need this.
local function int(number)
  return string.format('%.0f', number + 0)
end
