-- ARGV: name, holder, lease in ms; a lease of 0 releases the lock. Returns whether the holder had it.
local lock = P .. 'l:' .. ARGV[1]
local held = redis.call('GET', lock)
if not held or string.match(held, '^%x+') ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then
  redis.call('DEL', lock)
  redis.call('ZREM', P .. 'h', ARGV[1])
else
  redis.call('PEXPIRE', lock, ARGV[3])
  redis.call('ZADD', P .. 'h', text(now + ARGV[3]), ARGV[1])
end
return 1
