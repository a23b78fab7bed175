-- Count one gateway's batch, once, however often it is sent.
--
-- KEYS[1]  string   the last sequence that was counted for this boot
-- KEYS[2+] everything below, by its index in KEYS (all one hash tag); a key of another type is an
--          error that names it, and then nothing changes
--
-- ARGV[1]  a list of strings as JSON, which stands for ARGV in what follows: a client writes one
--          long argument in a fraction of the time that it needs for thousands
--
-- ARGV[1]  this batch's sequence, rising by boot
-- ARGV[2]  how long to remember the sequence, in seconds
-- ARGV[3]  how many samples of a stage are kept: those with the lowest scores
-- ARGV[4]  how many routing keys a set keeps
-- ARGV[5]  n counts, then n times: key index (a hash), field, increment
-- ARGV[ ]  m observations of routing keys, then m times: key index (the set of the keys that were
--          seen before), the key's digest, twice (key index (a hash), what its fields begin with),
--          the counters (each adds 1), key index of the pending label that they are about (or 0),
--          metric
-- ARGV[ ]  s samples, then s times: key index (a sorted set), its score, the Sample as JSON, key
--          index (a hash: the truths of the samples that are kept), its request's id
-- ARGV[ ]  p pending labels, then p times: key index (a string), the pending label as JSON without
--          its last brace, until when it is kept, in Unix ms
-- ARGV[ ]  v vectors, then v times: key index (a string: whose vectors are kept of a slice of time),
--          key index (a string: the vectors), their rank, the vectors as JSON, until when both are
--          kept, in Unix ms. Of a slice the lowest rank is kept.
-- ARGV[ ]  t lifetimes, then t times: key index, how long to keep it after this, in seconds
--
-- Returns 1 when it was counted, 0 when it had been counted before (and then nothing changes).

local ARGV = cjson.decode(ARGV[1])

local last = redis.call('GET', KEYS[1])
if last and tonumber(ARGV[1]) <= tonumber(last) then
  return 0
end

local at = 5
-- Walk a list: `act` gets the place of each item in ARGV.
local function each(width, act)
  local n = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, n do
    act(at)
    at = at + width
  end
end

local function key(place)
  return KEYS[tonumber(ARGV[place])]
end

-- A script that fails half-way keeps what it wrote, so the types of all keys are looked at first.
local checked, wrong = {}, nil
local function check(place, type)
  local name = key(place)
  if wrong or checked[name] then
    return
  end
  local found = redis.call('TYPE', name).ok
  if found ~= type and found ~= 'none' then
    wrong = redis.error_reply('WRONGTYPE ' .. name .. ' is a ' .. found .. ', not a ' .. type)
  end
  checked[name] = true
end
each(3, function(i) check(i, 'hash') end)
each(9, function(i) check(i, 'set') check(i + 2, 'hash') check(i + 4, 'hash') end)
each(5, function(i) check(i, 'zset') check(i + 3, 'hash') end)
each(3, function(i) check(i, 'string') end)
each(5, function(i) check(i, 'string') check(i + 1, 'string') end)
if wrong then
  return wrong
end

redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
at = 5
each(3, function(i)
  redis.call('HINCRBY', key(i), ARGV[i + 1], ARGV[i + 2])
end)

-- The observations of keys that are new, summed up before they are written.
local sums, size, notes = {}, {}, {}
local function add(name, field)
  local hash = sums[name] or {}
  hash[field] = (hash[field] or 0) + 1
  sums[name] = hash
end
each(9, function(i)
  local set, totals, part = key(i), key(i + 2), key(i + 4)
  if redis.call('SADD', set, ARGV[i + 1]) == 0 then
    return
  end
  size[set] = (size[set] or redis.call('SCARD', set) - 1) + 1
  if size[set] > tonumber(ARGV[4]) then
    redis.call('SREM', set, ARGV[i + 1])
    size[set] = size[set] - 1
    add(totals, ARGV[i + 3] .. '|keys.beyond')
    add(part, ARGV[i + 5] .. '|keys.beyond')
    return
  end
  for counter in string.gmatch(ARGV[i + 6], '%S+') do
    add(totals, ARGV[i + 3] .. '|first.' .. counter)
    add(part, ARGV[i + 5] .. '|first.' .. counter)
  end
  if ARGV[i + 7] ~= '0' then
    notes[key(i + 7)] = (notes[key(i + 7)] or '') .. ',"first.' .. ARGV[i + 8] .. '":true'
  end
end)
for name, fields in pairs(sums) do
  for field, by in pairs(fields) do
    redis.call('HINCRBY', name, field, by)
  end
end

each(5, function(i)
  redis.call('ZADD', key(i), ARGV[i + 1], ARGV[i + 2])
  redis.call('HSET', key(i + 3), ARGV[i + 4], '')
  for _, gone in ipairs(redis.call('ZRANGE', key(i), ARGV[3], -1)) do
    redis.call('HDEL', key(i + 3), cjson.decode(gone).request_id)
  end
  redis.call('ZREMRANGEBYRANK', key(i), ARGV[3], -1)
end)
each(3, function(i)
  local name = key(i)
  -- A pending label that was labelled in between stays so: it has been counted.
  if redis.call('GETRANGE', name, 0, 8) ~= '{"label":' then
    redis.call('SET', name, ARGV[i + 1] .. (notes[name] or '') .. '}', 'PXAT', ARGV[i + 2])
  end
end)
each(5, function(i)
  local rank, other = string.match(redis.call('GET', key(i)) or '', '^(%S+) (.+)$')
  if not rank or ARGV[i + 2] < rank then
    if other then
      redis.call('DEL', other)
    end
    redis.call('SET', key(i), ARGV[i + 2] .. ' ' .. key(i + 1), 'PXAT', ARGV[i + 4])
    redis.call('SET', key(i + 1), ARGV[i + 3], 'PXAT', ARGV[i + 4])
  end
end)
each(2, function(i)
  redis.call('EXPIRE', key(i), ARGV[i + 1])
end)
return 1
