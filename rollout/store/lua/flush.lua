-- Count one gateway's batch, once, however often it is sent.
--
-- KEYS[1]  string   the last sequence that was counted for this boot
-- KEYS[2+] the hashes, streams and strings below, by their index in KEYS (all one hash tag)
--
-- ARGV[1]  this batch's sequence, rising by boot
-- ARGV[2]  how long to remember the sequence, in seconds
-- ARGV[3]  how many samples a stream keeps, about
-- ARGV[4]  n counts, then n times: key index (a hash), field, increment
-- ARGV[ ]  m samples, then m times: key index (a stream), the Sample as JSON
-- ARGV[ ]  p pending labels, then p times: key index (a string), the pending label, TTL in ms
--
-- Returns 1 when it was counted, 0 when it had been counted before (and then nothing changes).

local last = redis.call('GET', KEYS[1])
if last and tonumber(ARGV[1]) <= tonumber(last) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])

local at = 4
local function items()
  local n = tonumber(ARGV[at])
  at = at + 1
  return n
end

for _ = 1, items() do
  redis.call('HINCRBY', KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2])
  at = at + 3
end
for _ = 1, items() do
  redis.call('XADD', KEYS[tonumber(ARGV[at])], 'MAXLEN', '~', ARGV[3], '*', 'sample', ARGV[at + 1])
  at = at + 2
end
for _ = 1, items() do
  local key = KEYS[tonumber(ARGV[at])]
  -- A pending label that was labelled in between stays so: it has been counted.
  if redis.call('GETRANGE', key, 0, 8) ~= '{"label":' then
    redis.call('SET', key, ARGV[at + 1], 'PX', ARGV[at + 2])
  end
  at = at + 3
end
return 1
