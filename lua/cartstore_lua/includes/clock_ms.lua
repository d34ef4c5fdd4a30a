-- Engine time in milliseconds; read once per script, because it moves while a script runs.
-- override: milliseconds given by a test, '' in production.
local function clock_ms(override)
  if override ~= '' then
    return tonumber(override)
  end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
