--- @include clock_ms

-- What one script call knows from the start, or nil when the partition is fenced. While it is rebuilt only the
-- recoverer passes, who gives the token of the rebuild in place of an identity.
-- The first call that meets an engine other than the one the gate was opened for fences the partition:
-- that engine may have lost its tail, and only recovery can tell. A call of another key layout (the number before the
-- slash of an identity) tells nothing of the engine: its process was left behind by an upgrade, and fences nothing.
-- `disk` of the result is nil unless the disk is nearly full: 'low' (what takes units or room is refused) or 'out'
-- (what writes is refused). The scripts that it concerns look at it before their first write.
local function call_begin(gate_key, identity, now_override, nonce)
  local gate = redis.call('HMGET', gate_key, 'status', 'identity', 'epoch', 'lifetime_ms')
  local now = clock_ms(now_override)
  local state, disk = gate[1], nil
  if gate[2] ~= identity then
    -- The token of a rebuild that was taken over says nothing of the engine either.
    local layout = string.match(gate[2] or '', '^(%d+)/')
    if
      (state == 'open' or state == 'low' or state == 'out')
      and string.sub(identity, 1, 8) ~= 'rebuild:'
      and (not layout or layout == string.match(identity, '^(%d+)/'))
    then
      redis.call('HSET', gate_key, 'status', 'fenced', 'fenced_at', now)
    end
    return nil
  end
  if state ~= 'open' then
    if state == 'low' or state == 'out' then
      disk = state
    elseif state ~= 'rebuilding' then
      return nil
    end
  end
  return {
    gate_key = gate_key,
    prefix = string.sub(gate_key, 1, -5),
    now = now,
    nonce = nonce,
    epoch = gate[3],
    lifetime = tonumber(gate[4]),
    disk = disk,
    events = 0,
    skus = {},
  }
end
