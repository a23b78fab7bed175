-- Take in the truth of one request, once, and count it for every arm that answered.
--
-- KEYS[1]  string   the pending label of the request. As JSON, before the label came:
--                     {"totals": {"key": <a hash, same hash tag>, "cell": "-|<stratum>"},
--                      "slot": {"key": <likewise, it expires>, "cell": "<minute>|<stratum>"},
--                      "keep_s": <how long to keep the slot, in seconds>,
--                      "assigned": <role>, "top": {<role>: [id, ...]},
--                      "first.due": true, "first.pair.due": true}
--                   (the last two where it was the first request of its routing key whose truth is
--                   awaited), or {} for a request outside any rollout; and afterwards
--                   {"label": id}. It is gone when the label window has closed.
--                   Ids are texts: they are 64-bit integers, and Lua's numbers are doubles.
--
-- KEYS[2]  string   the vectors of the request, where they are kept
--
-- ARGV[1]  the id of the truth
-- ARGV[2]  the request's id
-- ARGV[3+] the k of Hit@k, rising
--
-- Returns counted, sampled (counted, and its vectors are kept), outside (accepted, counts nowhere),
-- repeat, contradiction or unknown. Where the
-- request is among the samples of its stage, its truth is noted in their hash, which is called as the
-- totals with `:truths` behind. The hashes are not among KEYS because only the pending label knows
-- them; they share the hash tag, so one node of a cluster holds them all.

local stored = redis.call('GET', KEYS[1])
if not stored then
  return 'unknown'
end
local pending = cjson.decode(stored)
local target = ARGV[1]
if pending.label then
  return pending.label == target and 'repeat' or 'contradiction'
end
-- A script that fails half-way keeps what it wrote, so the types of all keys are looked at first.
local truths = pending.totals and {key = pending.totals.key .. ':truths'}
for _, hash in ipairs({pending.totals, pending.slot, truths}) do
  local found = redis.call('TYPE', hash.key).ok
  if found ~= 'hash' and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. hash.key .. ' is a ' .. found .. ', not a hash')
  end
end
redis.call('SET', KEYS[1], cjson.encode({label = target}), 'KEEPTTL')
if not pending.totals then
  return 'outside'
end

local function count(counter, first)
  for _, hash in ipairs({pending.totals, pending.slot}) do
    redis.call('HINCRBY', hash.key, hash.cell .. '|' .. counter, 1)
    if first then
      redis.call('HINCRBY', hash.key, hash.cell .. '|first.' .. counter, 1)
    end
  end
end

local function place(role)
  for i, id in ipairs(pending.top[role]) do
    if id == target then
      return i
    end
  end
  return math.huge
end

-- What the client got: the assigned arm's answer, or the other's where that one failed.
local other = pending.assigned == 'incumbent' and 'candidate' or 'incumbent'
local got = pending.top[pending.assigned] and pending.assigned or other
local paired = pending.top.incumbent and pending.top.candidate

if pending.top[got] then
  count('labels.' .. pending.assigned, pending['first.due'])
end
for i = 3, #ARGV do
  local k = tonumber(ARGV[i])
  if pending.top[got] and place(got) <= k then
    count('hit' .. ARGV[i] .. '.' .. pending.assigned, pending['first.due'])
  end
  if paired then
    local incumbent = place('incumbent') <= k and '1' or '0'
    local candidate = place('candidate') <= k and '1' or '0'
    count('pair.hit' .. ARGV[i] .. '.' .. incumbent .. candidate, pending['first.pair.due'])
  end
end
if redis.call('HEXISTS', truths.key, ARGV[2]) == 1 then
  redis.call('HSET', truths.key, ARGV[2], target)
end
if redis.call('TTL', pending.slot.key) < 0 then
  redis.call('EXPIRE', pending.slot.key, pending.keep_s)
end
return redis.call('EXISTS', KEYS[2]) == 1 and 'sampled' or 'counted'
