-- ARGV: consumer. Returns messages, bytes, those that are leased, dead ones, and the age in ms of the oldest or false.
local name = ARGV[1]
local used = redis.call('HMGET', P .. 'c:' .. name, 'waiting', 'size')
local oldest = redis.call('ZRANGE', P .. 'o:' .. name, 0, 0, 'WITHSCORES')
local leased = redis.call('ZCOUNT', P .. 'l:' .. name, '(' .. text(now), '+inf')
local age = oldest[2] and text(math.max(now - tonumber(oldest[2]), 0)) or false
return {used[1] or '0', used[2] or '0', text(leased), text(redis.call('LLEN', P .. 'd:' .. name)), age}
