-- ARGV: consumer, host, its presence in ms, limit or 0, lease in ms, the bytes after which it is enough. Returns {'unknown'}, or
-- {'done', dead, ms until the next message is due or false, {id, lease, attempt, age in ms, message, ...}}.
local name, limit, lease, enough = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- First, since a server that is full refuses a script only before its first write: it is drained by receiving.
trim(name)
awake()
if redis.call('HEXISTS', P .. 's', name) == 0 then return {'unknown'} end
local present = redis.call('ZSCORE', P .. 'p:' .. name, ARGV[2])
if not present or tonumber(present) - now < ARGV[3] * 2 / 3 then
  redis.call('ZADD', P .. 'seen', text(now), name)
  redis.call('ZADD', P .. 'p:' .. name, text(now + ARGV[3]), ARGV[2])
end
local most = tonumber(redis.call('HGET', P .. 'c:' .. name, 'max'))
local received, dead, bytes = {}, 0, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'q:' .. name, '-inf', text(now), 'LIMIT', 0, limit)) do
  if bytes >= enough then break end
  local attempt, _, size = state(name, id)
  if attempt >= most then
    bury(name, id, size, 'unsettled')
    dead = dead + 1
  else
    local number = following()
    redis.call('HSET', P .. 'a:' .. name, id, text(attempt + 1) .. ' ' .. number .. ' ' .. text(size))
    redis.call('ZADD', P .. 'q:' .. name, text(now + lease), id)
    redis.call('ZADD', P .. 'l:' .. name, text(now + lease), id)
    local age = math.max(now - tonumber(redis.call('ZSCORE', P .. 'o:' .. name, id)), 0)
    for _, part in ipairs({id, number, text(attempt + 1), text(age), redis.call('HGET', P .. 'm:' .. name, id)}) do
      received[#received + 1] = part
    end
    bytes = bytes + size
  end
end
local first = redis.call('ZRANGE', P .. 'q:' .. name, 0, 0, 'WITHSCORES')
return {'done', text(dead), first[2] and text(math.max(tonumber(first[2]) - now, 0)) or false, received}
