-- Whether what lasts until `expires` is over: from that millisecond on, and also when it is further away than
-- the longest lifetime, because the clock was set back since then.
local function is_due(call, expires)
  return expires <= call.now or expires > call.now + call.lifetime
end
