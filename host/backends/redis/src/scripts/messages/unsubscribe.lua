-- ARGV: consumer, host. Returns 1 if a subscription has ended, and 0 if there is none or other hosts receive for it.
local name = ARGV[1]
redis.call('ZREM', P .. 'p:' .. name, ARGV[2])
trim(name)
if redis.call('HEXISTS', P .. 's', name) == 0 or redis.call('ZCARD', P .. 'p:' .. name) > 0 then return 0 end
discard(name)
return 1
