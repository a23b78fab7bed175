-- Move the rollout from one version to the next: whole, once, in time; or do nothing.
--
-- KEYS[1]  string   the Snapshot as JSON                    written
-- KEYS[2]  string   the controller's Record as JSON         written
-- KEYS[3]  stream   the audit                               one entry added
-- KEYS[4]  string   the outcome of this idempotency key     written, with a TTL
--
-- ARGV[1]  the expected position as `epoch.version`; empty: there must be no snapshot
-- ARGV[2]  the deadline, in Unix milliseconds on this server's clock
-- ARGV[3]  the new Snapshot      ARGV[4]  the new Record      ARGV[5]  the AuditEntry, all as JSON
-- ARGV[6]  the outcome to keep   ARGV[7]  its TTL in seconds
-- ARGV[8]  the channel on which the new snapshot is published
--
-- Returns {'applied'}, or, having changed nothing, {'repeated', outcome}, {'late', now in ms} or
-- {'moved', the present position, empty for none}.
--
-- The deadline is why a write that a client gave up on cannot happen later: a server that was
-- frozen runs this when it wakes, and its clock has moved on.

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

redis.call('SET', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[4])
redis.call('XADD', KEYS[3], '*', 'entry', ARGV[5])
redis.call('SET', KEYS[4], ARGV[6], 'EX', ARGV[7])
redis.call('PUBLISH', ARGV[8], ARGV[3])
return {'applied'}
