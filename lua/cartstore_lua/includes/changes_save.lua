-- Write what change_note has noted of the changes that share a call.
local function changes_save(call)
  local noted = call.noted
  if noted[1] then
    redis.call('HINCRBY', call.gate_key, 'change', #noted / 2)
    redis.call('ZADD', call.prefix .. 'activity', unpack(noted))
  end
end
