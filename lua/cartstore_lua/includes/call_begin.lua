--- @include clock_ms

-- What one script call knows from the start, or nil when the partition is fenced. While it is rebuilt only the
-- recoverer passes, who gives the token of the rebuild in place of an identity.
-- The first call that meets an engine other than the one the gate was opened for fences the partition:
-- that engine may have lost its tail, and only recovery can tell.
local function call_begin(gate_key, identity, now_override, nonce)
  local gate = redis.call('HMGET', gate_key, 'state', 'identity', 'epoch', 'lifetime_ms')
  local now = clock_ms(now_override)
  if gate[2] ~= identity then
    -- The token of a rebuild that was taken over says nothing of the engine.
    if gate[1] == 'open' and string.sub(identity, 1, 8) ~= 'rebuild:' then
      redis.call('HSET', gate_key, 'state', 'fenced', 'fenced_at', now)
    end
    return nil
  end
  if gate[1] ~= 'open' and gate[1] ~= 'rebuilding' then
    return nil
  end
  return {
    gate_key = gate_key,
    prefix = string.sub(gate_key, 1, -5),
    now = now,
    nonce = nonce,
    epoch = gate[3],
    lifetime = tonumber(gate[4]),
    events = 0,
    skus = {},
  }
end
