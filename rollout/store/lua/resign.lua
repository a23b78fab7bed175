-- Give the lease back, if it is still this one.
--
-- KEYS[1]  string   the lease, `holder:token`
-- ARGV[1]  the lease to give back
--
-- Returns 1 when it was held, 0 when another had taken it or it had ended.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
