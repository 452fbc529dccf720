-- ARGV: consumer, id, lease, 'done', 'again' or 'dead', pause in ms, deliveries that do not count, why it failed. Returns 'done', 'dead' or 'stale'.
local name, id, kind = ARGV[1], ARGV[2], ARGV[4]
local attempt, lease, size = state(name, id)
if not attempt or lease ~= ARGV[3] then return 'stale' end
if kind == 'done' then
  remove(name, id, size)
  return 'done'
end
attempt = math.max(attempt - ARGV[6], 0)
if kind == 'dead' or attempt >= tonumber(redis.call('HGET', P .. 'c:' .. name, 'max')) then
  bury(name, id, size, ARGV[7])
  return 'dead'
end
-- First, since a server that is full refuses a script only before its first write.
redis.call('ZREM', P .. 'l:' .. name, id)
redis.call('HSET', P .. 'a:' .. name, id, text(attempt) .. ' 0 ' .. text(size))
redis.call('ZADD', P .. 'q:' .. name, text(now + ARGV[5]), id)
return 'done'
