-- Move the rollout from one version to the next: whole, once, in time; or do nothing.
--
-- KEYS[1]  string   the Snapshot as JSON                    written
-- KEYS[2]  string   the controller's Record as JSON         written, if there is one
-- KEYS[3]  stream   the audit                               one entry added
-- KEYS[4]  string   the outcome of this idempotency key     written, with a TTL
-- KEYS[5]  hash     boot -> Heartbeat as JSON               read
-- KEYS[6]  string   the lease, `holder:token`               read
-- KEYS[7]  hash     rollout -> Record as JSON               written, if there is one
-- KEYS[8]  list     the rollouts in KEYS[7], newest first   written, if there is one
--
-- ARGV[1]  the expected position as `epoch.version`; empty: there must be no snapshot
-- ARGV[2]  the deadline, in Unix milliseconds on this server's clock
-- ARGV[3]  the new Snapshot      ARGV[4]  the new Record, or empty      ARGV[5]  the AuditEntry
-- ARGV[6]  the outcome to keep   ARGV[7]  its TTL in seconds
-- ARGV[8]  the channel on which the new snapshot is published
-- ARGV[9]  the new epoch         ARGV[10] the new version
-- ARGV[11] the lease that must be held; empty: a person's command needs none
-- ARGV[12] the id of the Record  ARGV[13] how many rollouts are remembered
--
-- Returns {'applied'}, or, having changed nothing, {'repeated', outcome}, {'late', now in ms},
-- {'moved', the present position, empty for none}, {'fenced'}, or {'behind'}: a gateway has applied
-- as much as the new position or more, so it would not obey it.
--
-- The deadline is why a write that a client gave up on cannot happen later: a server that was
-- frozen runs this when it wakes, and its clock has moved on. The lease is why a controller that
-- was frozen cannot act by itself after another has taken its place.

local repeated = redis.call('GET', KEYS[4])
if repeated then
  return {'repeated', repeated}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(ARGV[2]) then
  return {'late', string.format('%.0f', now)}
end

local position = ''
local stored = redis.call('GET', KEYS[1])
if stored then
  local snapshot = cjson.decode(stored)
  position = string.format('%.0f.%.0f', snapshot.epoch, snapshot.version)
end
if position ~= ARGV[1] then
  return {'moved', position}
end

if ARGV[11] ~= '' and redis.call('GET', KEYS[6]) ~= ARGV[11] then
  return {'fenced'}
end

local epoch, version = tonumber(ARGV[9]), tonumber(ARGV[10])
for _, json in ipairs(redis.call('HVALS', KEYS[5])) do
  local readable, beat = pcall(cjson.decode, json)
  if readable and type(beat) == 'table' then
    local e, v = tonumber(beat.epoch), tonumber(beat.version)
    if e and v and (e > epoch or (e == epoch and v >= version)) then
      return {'behind'}
    end
  end
end

redis.call('SET', KEYS[1], ARGV[3])
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[2], ARGV[4])
  if redis.call('HSET', KEYS[7], ARGV[12], ARGV[4]) == 1 then
    redis.call('LPUSH', KEYS[8], ARGV[12])
  end
  while redis.call('LLEN', KEYS[8]) > tonumber(ARGV[13]) do
    redis.call('HDEL', KEYS[7], redis.call('RPOP', KEYS[8]))
  end
end
redis.call('XADD', KEYS[3], '*', 'entry', ARGV[5])
redis.call('SET', KEYS[4], ARGV[6], 'EX', ARGV[7])
redis.call('PUBLISH', ARGV[8], ARGV[3])
return {'applied'}
