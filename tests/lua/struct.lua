-- What the engines have built in and fakeredis has not: numbers of a fixed width, as far as scripts use it (signed ones,
-- the highest byte first).
local function sizes_of(format)
  local sizes = {}
  assert(string.match(format, '^>[i%d]+$'), 'a format of another kind')
  for size in string.gmatch(format, 'i(%d)') do
    sizes[#sizes + 1] = tonumber(size)
  end
  return sizes
end

local function pack(format, ...)
  local parts = {}
  for index, size in ipairs(sizes_of(format)) do
    local number, bytes = select(index, ...), {}
    assert(number == math.floor(number), 'not a whole number')
    for place = size, 1, -1 do
      bytes[place] = string.char(number % 256)
      number = math.floor(number / 256)
    end
    parts[index] = table.concat(bytes)
  end
  return table.concat(parts)
end

local function unpack_all(format, packed)
  local values, place = {}, 1
  for index, size in ipairs(sizes_of(format)) do
    assert(place + size - 1 <= #packed, 'data string too short')
    -- The sign is the first byte's: a double has not the digits for taking it off at the end.
    local value = string.byte(packed, place) < 128 and 0 or -1
    for _ = 1, size do
      value = value * 256 + string.byte(packed, place)
      place = place + 1
    end
    values[index] = value
  end
  -- The engine's tells the place behind the last value as well.
  values[#values + 1] = place
  return unpack(values)
end

return { pack = pack, unpack = unpack_all }
