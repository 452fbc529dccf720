-- What is in use, without entries that have expired.
local counted = redis.call('HMGET', P .. 'u', 'keys', 'bytes', 'last')
local keys, bytes, last = tonumber(counted[1] or 0), tonumber(counted[2] or 0), tonumber(counted[3] or 0)
-- Removes up to 64 entries that have expired from the indexes, and returns how many.
local function sweep()
  local expired = redis.call('ZRANGEBYSCORE', P .. 'x', '-inf', '(' .. text(now), 'LIMIT', 0, 64)
  for _, name in ipairs(expired) do
    local length, start = string.match(name, '^(%d+):()')
    local bucket, key = string.sub(name, start, start + length - 1), string.sub(name, start + length)
    keys = keys - 1
    bytes = bytes - tonumber(redis.call('HGET', P .. 's', name) or 0)
    redis.call('DEL', P .. 'e:' .. name)
    redis.call('HDEL', P .. 's', name)
    redis.call('ZREM', P .. 'i:' .. bucket, key)
    redis.call('ZREM', P .. 'x', name)
  end
  return #expired
end
local function count()
  redis.call('HSET', P .. 'u', 'keys', text(keys))
  redis.call('HSET', P .. 'u', 'bytes', text(bytes))
  redis.call('HSET', P .. 'u', 'last', text(last))
end
local swept = sweep()
