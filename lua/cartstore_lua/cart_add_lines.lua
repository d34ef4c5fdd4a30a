--[[
  cart_add_lines: what several calls of cart_add_line ask for, one after the other. None of them depends on another:
  each is answered as if it had come alone.
  Why atomic: each of them has to be; together they only share what every call costs, its gate and its clock.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              of the first one; two keys for each
  KEYS[3]  sku hash               of the first one
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  arguments              of the first one, one for each: its ARGV[2] and all that follow, as
                                  MessagePack values one after the other
  Returns  a reply for each
  Faults   CARTBADARG             in place of its reply, as everything that only one of them meets
  Function no flags
  Cost     what they cost alone
]]
--- @include call_begin
--- @include line_add
--- @include changes_save

local call = call_begin(KEYS[1], ARGV[1], '', '')
local replies = {}
if not call then
  for index = 2, #ARGV do
    replies[index - 1] = { 'FENCED' }
  end
  return replies
end
local now = call.now
call.noted = {}
for index = 2, #ARGV do
  local lifetime = call.lifetime
  local done, reply = pcall(line_add, call, now, KEYS[2 * index - 2], KEYS[2 * index - 1], ARGV[index])
  if not done then
    if call.has_new_lifetime then
      -- What it was about to leave to the gate is not the next one's to write.
      call.lifetime, call.has_new_lifetime = lifetime, false
    end
    -- An engine's own error has a code already.
    local text = type(reply) == 'table' and reply.err or tostring(reply)
    reply = redis.error_reply(string.find(text, '^%u+ ') and text or 'ERR ' .. text)
  end
  replies[index - 1] = reply
end
changes_save(call)
return replies
