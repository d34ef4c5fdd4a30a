-- Write what change_note has noted of the changes that share a call.
local function changes_save(call)
  if call.change then
    redis.call('HSET', call.gate_key, 'change', call.change)
    redis.call('ZADD', call.prefix .. 'activity', unpack(call.noted))
  end
end
