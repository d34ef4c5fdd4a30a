--- @include call_begin
--- @include terms_decode
--- @include ring_find

-- The start of every cart mutation: gate, terms, remembered result.
-- Arguments as every mutation has them: identity, now, nonce, terms, if_match, idempotency key, fingerprint.
-- gives_back: it only removes, so it goes on while the disk is low.
-- Returns call, cart_id and terms; or nil and the reply to give at once.
local function mutation_begin(keys, args, gives_back)
  local call = call_begin(keys[1], args[1], args[2], args[3])
  if not call then
    return nil, { 'FENCED' }
  end
  local terms = terms_decode(args[4])
  if not terms then
    return nil, redis.error_reply('CARTBADARG terms')
  end
  local remembered = ring_find(keys[2], args[6], args[7])
  if remembered then
    return nil, remembered
  end
  if call.disk and not (gives_back and call.disk == 'low') then
    return nil, { 'STORE_FULL' }
  end
  return call, string.sub(keys[2], #call.prefix + 6), terms
end
