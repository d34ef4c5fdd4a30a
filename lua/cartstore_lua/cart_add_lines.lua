--[[
  cart_add_lines: what several calls of cart_add_line ask for, one after the other. None of them depends on another:
  each is answered as if it had come alone.
  Why atomic: each of them has to be; together they only share what every call costs, its gate and its clock.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              of the first one; two keys for each
  KEYS[3]  sku hash               of the first one
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  arguments              of the first one, one for each: its ARGV as a MessagePack array
  Returns  a reply for each
  Faults   CARTBADARG             in place of its reply, as everything that only one of them meets
  Function no flags
  Cost     what they cost alone
]]
--- @include call_begin
--- @include line_add

local call = call_begin(KEYS[1], ARGV[1], '', '')
local now = call and call.now
local replies = {}
for index = 2, #ARGV do
  local reply = { 'FENCED' }
  if call then
    local lifetime = call.lifetime
    local done, given = pcall(line_add, call, now, KEYS[2 * index - 2], KEYS[2 * index - 1], ARGV[index])
    if done and given then
      reply = given
    else
      -- What it was about to leave to the gate is not the next one's to write.
      call.lifetime, call.has_new_lifetime = lifetime, false
      -- An engine's own error has a code already.
      given = type(given) == 'table' and given.err or tostring(given)
      reply = redis.error_reply(string.find(given, '^%u+ ') and given or 'ERR ' .. given)
    end
  end
  replies[index - 1] = reply
end
return replies
