-- ARGV: consumer, host, its presence in ms, patterns, max_deliver, dead letter, messages, bytes, the most consumers. Returns
-- {'done'} or {'consumers', used, limit}.
local name, most = ARGV[1], tonumber(ARGV[9])
trim(name)
awake()
for _, other in ipairs(redis.call('ZRANGEBYSCORE', P .. 'seen', '-inf', text(now - ABSENCE))) do discard(other) end
local used = redis.call('HLEN', P .. 's')
if used >= most and redis.call('HEXISTS', P .. 's', name) == 0 then return {'consumers', text(used), text(most)} end
if redis.call('HGET', P .. 's', name) ~= ARGV[4] then redis.call('DEL', P .. 'xv') end
redis.call('HSET', P .. 's', name, ARGV[4])
redis.call('ZADD', P .. 'seen', text(now), name)
redis.call('ZADD', P .. 'p:' .. name, text(now + ARGV[3]), ARGV[2])
local consumer = P .. 'c:' .. name
for _, count in ipairs({'waiting', 'size', 'buried'}) do redis.call('HSETNX', consumer, count, '0') end
for index, field in ipairs({'max', 'dead', 'messages', 'bytes'}) do
  redis.call('HSET', consumer, field, ARGV[4 + index])
end
return {'done'}
