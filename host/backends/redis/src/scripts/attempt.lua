-- ARGV: name, holder, lease in ms, the most locks. Returns {'held', token}, {'busy', ms}, or {'locks', used}.
local name, holder, lease = ARGV[1], ARGV[2], ARGV[3]
local lock = P .. 'l:' .. name
local held = redis.call('GET', lock)
if held then
  local owner, token = string.match(held, '^(%x+) (%d+)$')
  if owner ~= holder then return {'busy', text(math.max(redis.call('PTTL', lock), 1))} end
  redis.call('PEXPIRE', lock, lease)
  redis.call('ZADD', P .. 'h', text(now + lease), name)
  return {'held', token}
end
redis.call('ZREMRANGEBYSCORE', P .. 'h', '-inf', '(' .. text(now))
local used = redis.call('ZCARD', P .. 'h')
if used >= tonumber(ARGV[4]) and not redis.call('ZSCORE', P .. 'h', name) then return {'locks', text(used)} end
local token = math.max(tonumber(redis.call('GET', P .. 'n') or 0) + 1, micros)
redis.call('SET', P .. 'n', text(token))
redis.call('SET', lock, holder .. ' ' .. text(token), 'PX', lease)
redis.call('ZADD', P .. 'h', text(now + lease), name)
return {'held', text(token)}
