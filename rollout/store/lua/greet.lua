-- Take in the first heartbeat of a gateway, and forget the gateways that fell silent.
--
-- KEYS[1]  hash     boot -> Heartbeat as JSON
--
-- ARGV[1]  the boot that starts
-- ARGV[2]  its Heartbeat as JSON
-- ARGV[3]  after how many seconds without a heartbeat a gateway is forgotten
--
-- `at` is the gateway's own clock and this is the server's. One that is wrong by more than ARGV[3]
-- costs little: the gateway is in the hash again with its next heartbeat.

local now = tonumber(redis.call('TIME')[1])
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  local readable, heartbeat = pcall(cjson.decode, held[i + 1])
  local at = readable and type(heartbeat) == 'table' and tonumber(heartbeat.at)
  if not at or at < now - tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], held[i])
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
