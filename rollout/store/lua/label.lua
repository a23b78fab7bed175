-- Take in the truth of one request, once, and count it for every arm that answered.
--
-- KEYS[1]  string   the pending label of the request. As JSON, before the label came:
--                     {"counts": <key of a hash, same hash tag>, "cell": "<minute>|<stratum>",
--                      "assigned": <role>, "top": {<role>: [id, ...]}}
--                   or {} for a request outside any rollout; and afterwards {"label": id}.
--                   Ids are texts: they are 64-bit integers, and Lua's numbers are doubles.
--
-- ARGV[1]  the id of the truth
-- ARGV[2+] the k of Hit@k, rising
--
-- Returns counted, outside (accepted, counts nowhere), repeat, contradiction or unknown. The hash
-- is not among KEYS because only the pending label knows it; it shares the hash tag, so one node of
-- a cluster holds both.

local stored = redis.call('GET', KEYS[1])
if not stored then
  return 'unknown'
end
local pending = cjson.decode(stored)
local target = ARGV[1]
if pending.label then
  return pending.label == target and 'repeat' or 'contradiction'
end
redis.call('SET', KEYS[1], cjson.encode({label = target}), 'KEEPTTL')
if not pending.counts then
  return 'outside'
end

local function count(counter)
  redis.call('HINCRBY', pending.counts, pending.cell .. '|' .. counter, 1)
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
for i = 2, #ARGV do
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
return 'counted'
