-- What the engines have built in and fakeredis has not: MessagePack, as far as scripts use it (whole numbers and
-- short texts, any number of them one after the other).
local function bytes_of(number, size)
  local bytes = {}
  for place = size, 1, -1 do
    bytes[place] = string.char(number % 256)
    number = math.floor(number / 256)
  end
  return table.concat(bytes)
end

local function pack_number(number)
  if number >= 0 then
    if number < 2 ^ 7 then
      return string.char(number)
    elseif number < 2 ^ 8 then
      return '\204' .. bytes_of(number, 1)
    elseif number < 2 ^ 16 then
      return '\205' .. bytes_of(number, 2)
    elseif number < 2 ^ 32 then
      return '\206' .. bytes_of(number, 4)
    end
    return '\207' .. bytes_of(number, 8)
  elseif number >= -32 then
    return string.char(256 + number)
  elseif number >= -2 ^ 31 then
    return '\210' .. bytes_of(2 ^ 32 + number, 4)
  end
  -- The upper half by itself: a double has not the digits for eight bytes.
  local low = number % 2 ^ 32
  return '\211' .. bytes_of(2 ^ 32 + (number - low) / 2 ^ 32, 4) .. bytes_of(low, 4)
end

local function pack(...)
  local parts = {}
  for index = 1, select('#', ...) do
    local value = select(index, ...)
    if type(value) == 'string' then
      assert(#value < 32, 'a long text')
      parts[index] = string.char(160 + #value) .. value
    else
      assert(value == math.floor(value), 'not a whole number')
      parts[index] = pack_number(value)
    end
  end
  return table.concat(parts)
end

local sizes = { [204] = 1, [205] = 2, [206] = 4, [207] = 8, [208] = 1, [209] = 2, [210] = 4, [211] = 8 }

local function unpack_all(packed)
  local values, count, place = {}, 0, 1
  while place <= #packed do
    local mark, value = string.byte(packed, place), nil
    place = place + 1
    if mark < 128 then
      value = mark
    elseif mark >= 224 then
      value = mark - 256
    elseif mark >= 160 and mark < 192 then
      value = string.sub(packed, place, place + mark - 161)
      place = place + mark - 160
    else
      local size = assert(sizes[mark], 'Bad data format in input.')
      assert(place + size - 1 <= #packed, 'Missing bytes in input.')
      value = 0
      for offset = 0, size - 1 do
        local byte = string.byte(packed, place + offset)
        if offset == 0 and mark >= 208 and byte >= 128 then
          byte = byte - 256
        end
        value = value * 256 + byte
      end
      place = place + size
    end
    count = count + 1
    values[count] = value
  end
  return unpack(values, 1, count)
end

return { pack = pack, unpack = unpack_all }
