-- Take the lease, or renew it.
--
-- KEYS[1]  string, with a TTL   the lease, `holder:token`
-- KEYS[2]  string               the newest token that was given out
--
-- ARGV[1]  who asks             ARGV[2]  for how long, in milliseconds
--
-- Returns the token, or 0 while another holds the lease. A token is given out once: whoever comes
-- back after another has led gets a new one, and a change that carries the old one does nothing.

local held = redis.call('GET', KEYS[1])
if held then
  local holder, token = string.match(held, '^(.*):(%d+)$')
  if holder ~= ARGV[1] then
    return 0
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(token)
end
local token = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. string.format('%.0f', token), 'PX', ARGV[2])
return token
