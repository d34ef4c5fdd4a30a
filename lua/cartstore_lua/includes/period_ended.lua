-- What is recorded of an owner and a SKU when a hold of it ended. known: what was recorded before, or nil. first: the
-- first hold of the period, which the hold that ended has taken over when it began. ended: when the hold ended; a hold
-- that ends before its expiry ends now.
local function period_ended(known, now, first, ended)
  ended = math.min(ended, now)
  if known and known.first == first and known.ended <= now then
    -- Holds that lapsed are released late, so their ends may come out of order.
    ended = math.max(ended, known.ended)
  end
  return { first = first, ended = ended, ordered = known and known.ordered or 0 }
end
