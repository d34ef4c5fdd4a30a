-- HSET of a list of names and values in pieces: an unpacked list has to fit the interpreter's stack.
local function hash_set(key, fields)
  for first = 1, #fields, 1000 do
    redis.call('HSET', key, unpack(fields, first, math.min(first + 999, #fields)))
  end
end
