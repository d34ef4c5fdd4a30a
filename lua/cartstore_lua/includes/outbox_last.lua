-- The last entry of the outbox: its sequence number, and its name as the next event's `previous` gives it: position
-- and nonce, separated by a space. Of an empty stream: 0 and an empty name.
local function outbox_last(prefix)
  local entry = redis.call('XREVRANGE', prefix .. 'outbox', '+', '-', 'COUNT', 1)[1]
  if not entry then
    return { seq = 0, name = '' }
  end
  local nonce = ''
  for index = 1, #entry[2], 2 do
    if entry[2][index] == 'nonce' then
      nonce = entry[2][index + 1]
      break
    end
  end
  return { seq = tonumber(string.match(entry[1], '%-(%d+)$')), name = entry[1] .. ' ' .. nonce }
end
