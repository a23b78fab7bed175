-- Count one gateway's batch, once, however often it is sent.
--
-- KEYS[1]  string   the last sequence that was counted for this boot
-- KEYS[2+] the hashes, sorted sets and strings below, by their index in KEYS (all one hash tag); a key
--          of another type is an error that names it, and then nothing changes
--
-- ARGV[1]  this batch's sequence, rising by boot
-- ARGV[2]  how long to remember the sequence, in seconds
-- ARGV[3]  how many samples of a stage are kept: those with the lowest scores
-- ARGV[4]  how long to keep a minute after its last count, in seconds
-- ARGV[5]  n totals, then n times: key index (a hash that lasts), field, increment
-- ARGV[ ]  n counts of minutes, likewise, in hashes that expire
-- ARGV[ ]  m samples, then m times: key index (a sorted set), its score, the Sample as JSON
-- ARGV[ ]  p pending labels, then p times: key index (a string), the pending label, TTL in ms
--
-- Returns 1 when it was counted, 0 when it had been counted before (and then nothing changes).

local last = redis.call('GET', KEYS[1])
if last and tonumber(ARGV[1]) <= tonumber(last) then
  return 0
end

local at = 5
local function items()
  local n = tonumber(ARGV[at])
  at = at + 1
  return n
end

-- A script that fails half-way keeps what it wrote, so the types of all keys are looked at first.
local checked = {}
local function check(type, width)
  for _ = 1, items() do
    local key = KEYS[tonumber(ARGV[at])]
    if not checked[key] then
      local found = redis.call('TYPE', key).ok
      if found ~= type and found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. type)
      end
      checked[key] = true
    end
    at = at + width
  end
end
local wrong = check('hash', 3) or check('hash', 3) or check('zset', 3) or check('string', 3)
if wrong then
  return wrong
end

redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
at = 5
local function add()
  local touched = {}
  for _ = 1, items() do
    local key = KEYS[tonumber(ARGV[at])]
    redis.call('HINCRBY', key, ARGV[at + 1], ARGV[at + 2])
    touched[key] = true
    at = at + 3
  end
  return touched
end
add()
for key in pairs(add()) do
  redis.call('EXPIRE', key, ARGV[4])
end
for _ = 1, items() do
  local key = KEYS[tonumber(ARGV[at])]
  redis.call('ZADD', key, ARGV[at + 1], ARGV[at + 2])
  redis.call('ZREMRANGEBYRANK', key, ARGV[3], -1)
  at = at + 3
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
