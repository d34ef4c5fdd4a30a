--[[
  The requests of a file, in its order, again and again, on every connection.

    wrk -t T -c C -d S -s load.lua URL -- FILE RATE NONCE T

  FILE   requests as they go over the wire, each after a line with its length in bytes; MARK in a request is
         replaced by a number that no other request of the run has
  RATE   0: closed loop, each connection sends its next request when it has its answer
         otherwise open loop: so many requests a second over all connections, whether or not the service keeps
         up; needs as many threads as connections (T = C)
  NONCE  first digits of those numbers
  T      the number of threads: a script is not told

  Open loop without coordinated omission: every connection has a timetable. A request that is sent on time
  counts from when it was sent; one that could not be, because the answer before it was late, counts from when
  it was due. A service that stands still for a second is so charged for all that should have been asked in it.

  Prints one line of JSON at the end.
]]
local ffi = require 'ffi'
ffi.cdef [[
  struct bench_time { long seconds; long nanoseconds; };
  int clock_gettime(int, struct bench_time *);
]]
local MARK = '@@@@@@@@@@'
local MONOTONIC = 1
local GROWTH = math.log(1.01)
local time = ffi.new('struct bench_time')
local threads = {}

local function now_us()
  ffi.C.clock_gettime(MONOTONIC, time)
  return tonumber(time.seconds) * 1e6 + tonumber(time.nanoseconds) / 1e3
end

function setup(thread)
  thread:set('number', #threads)
  threads[#threads + 1] = thread
end

local heads, tails, place, sent, nonce, rate
local due, interval, from
counts, above, below, failed, late = {}, 0, 0, 0, 0

function init(args)
  local file = assert(io.open(args[1], 'rb'))
  rate, nonce = tonumber(args[2]), args[3]
  local total = tonumber(args[4])
  heads, tails, place, sent = {}, {}, 0, 0
  local line = 0
  for length in file:lines() do
    local text = file:read(tonumber(length))
    -- Each thread has its share of the file: together they send what one would.
    if line % total == number then
      local first, last = string.find(text, MARK, 1, true)
      heads[#heads + 1] = first and string.sub(text, 1, first - 1) or text
      tails[#heads] = first and string.sub(text, last + 1) or nil
    end
    line = line + 1
  end
  file:close()
  if rate > 0 then
    interval = 1e6 * total / rate
    function delay()
      local now = now_us()
      -- From the first request on, not from here: reading the file takes its time.
      due = due or now + interval * number / total
      if due > now then
        from = nil
        local wait = math.floor((due - now) / 1e3 + 0.5)
        due = due + interval
        return wait
      end
      from, late = due, late + 1
      due = due + interval
      return 0
    end
    function response(status)
      local us = now_us() - from
      local bucket = us > 1 and math.floor(math.log(us) / GROWTH) or 0
      counts[bucket] = (counts[bucket] or 0) + 1
      if status > 399 then
        failed = failed + 1
      end
    end
  end
end

function request()
  place = place % #heads + 1
  from = from or (rate > 0 and now_us())
  local tail = tails[place]
  if not tail then
    return heads[place]
  end
  sent = sent + 1
  return heads[place] .. string.format('%s%02d%0' .. (8 - #nonce) .. 'd', nonce, number, sent) .. tail
end

function done(summary, latency)
  local merged, all = {}, 0
  for _, thread in ipairs(threads) do
    for bucket, count in pairs(thread:get('counts')) do
      merged[bucket] = (merged[bucket] or 0) + count
      all = all + count
    end
    failed, late = failed + thread:get('failed'), late + thread:get('late')
  end
  local buckets = {}
  for bucket in pairs(merged) do
    buckets[#buckets + 1] = bucket
  end
  table.sort(buckets)
  local function percentile(share)
    if all == 0 then
      return latency:percentile(share * 100)
    end
    local seen = 0
    for _, bucket in ipairs(buckets) do
      seen = seen + merged[bucket]
      if seen >= all * share then
        return math.exp((bucket + 0.5) * GROWTH)
      end
    end
  end
  local errors = summary.errors
  print(string.format(
    '{"requests":%d,"seconds":%.6f,"refused":%d,"broken":%d,"late":%d,"p50":%.1f,"p99":%.1f,"p999":%.1f,"slowest":%.1f}',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, late,
    percentile(0.5), percentile(0.99), percentile(0.999),
    all > 0 and math.exp((buckets[#buckets] + 0.5) * GROWTH) or latency.max
  ))
end
