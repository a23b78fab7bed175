-- Take in the truth of one request, once, and count it for every arm that answered.
--
-- KEYS[1]  string   the pending label of the request. As JSON, before the label came:
--                     {"totals": {"key": <a hash, same hash tag>, "cell": "-|<stratum>"},
--                      "minute": {"key": <likewise, it expires>, "cell": "<minute>|<stratum>"},
--                      "assigned": <role>, "top": {<role>: [id, ...]}}
--                   or {} for a request outside any rollout; and afterwards {"label": id}.
--                   Ids are texts: they are 64-bit integers, and Lua's numbers are doubles.
--
-- ARGV[1]  the id of the truth
-- ARGV[2]  how long to keep a minute after its last count, in seconds
-- ARGV[3+] the k of Hit@k, rising
--
-- Returns counted, outside (accepted, counts nowhere), repeat, contradiction or unknown. The hashes
-- are not among KEYS because only the pending label knows them; they share the hash tag, so one
-- node of a cluster holds them all.

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
for _, hash in ipairs({pending.totals, pending.minute}) do
  local found = redis.call('TYPE', hash.key).ok
  if found ~= 'hash' and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. hash.key .. ' is a ' .. found .. ', not a hash')
  end
end
redis.call('SET', KEYS[1], cjson.encode({label = target}), 'KEEPTTL')
if not pending.totals then
  return 'outside'
end

local function count(counter)
  for _, hash in ipairs({pending.totals, pending.minute}) do
    redis.call('HINCRBY', hash.key, hash.cell .. '|' .. counter, 1)
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
  count('labels.' .. pending.assigned)
end
for i = 3, #ARGV do
  local k = tonumber(ARGV[i])
  if pending.top[got] and place(got) <= k then
    count('hit' .. ARGV[i] .. '.' .. pending.assigned)
  end
  if paired then
    local incumbent = place('incumbent') <= k and '1' or '0'
    local candidate = place('candidate') <= k and '1' or '0'
    count('pair.hit' .. ARGV[i] .. '.' .. incumbent .. candidate)
  end
end
redis.call('EXPIRE', pending.minute.key, ARGV[2])
return 'counted'
