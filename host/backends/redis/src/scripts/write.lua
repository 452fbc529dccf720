-- ARGV: bucket, key, condition, version, value of the condition, change, payload, expiry, quota of keys, quota of bytes.
-- Returns {'done', 'removed' or false, after or false}, {'stale', before or false}, or {the error, used}.
local bucket, key, condition, change, payload = ARGV[1], ARGV[2], ARGV[3], ARGV[6], ARGV[7]
local name = member(bucket, key)
local entry = P .. 'e:' .. name
local before = redis.call('GET', entry)
local version, expires, start
if before then version, expires, start = string.match(before, '^(%d+) (%d+) ()') end
local function value() return string.sub(before, start) end
-- A return before the end of the script keeps what was swept.
local function finish(...)
  if swept > 0 then count() end
  return {...}
end

local holds = true
if condition == 'absent' then
  holds = not before
elseif condition ~= 'always' then
  holds = before
    and (condition == 'value' or version == ARGV[4])
    and (condition == 'version' or value() == ARGV[5])
end
if not holds then return finish('stale', before) end

-- The new entry.
local until_, stored = '0', nil
if change == 'put' then
  if ARGV[8] == 'keep' then
    until_ = expires or '0'
  elseif ARGV[8] ~= 'never' then
    until_ = text(now + tonumber(ARGV[8]))
  end
  stored = payload
elseif change == 'add' then
  until_ = expires or '0'
  local number = '0'
  if before then number = value() end
  if number ~= '0' and not string.match(number, '^-?[1-9]%d*$') then return finish('not-a-number') end
  if #number < 16 and #payload < 16 then
    stored = text(tonumber(number) + tonumber(payload))
  else
    -- Lua's numbers are not exact here; those of INCRBY are.
    redis.call('SET', P .. 't', number)
    local valid = redis.pcall('INCRBY', P .. 't', 0)
    local sum = redis.pcall('INCRBY', P .. 't', payload)
    stored = redis.call('GET', P .. 't')
    redis.call('DEL', P .. 't')
    if type(valid) == 'table' and valid.err then return finish('not-a-number') end
    if type(sum) == 'table' and sum.err then return finish('overflow') end
  end
end

-- Quotas. An entry that has expired may still be counted under this name.
local size
repeat
  size = redis.call('HGET', P .. 's', name)
  if not stored then break end
  local more_keys = size and 0 or 1
  local more_bytes = #bucket + #key + #stored - tonumber(size or 0)
  local refused, used
  if more_keys > 0 and keys + more_keys > tonumber(ARGV[9]) then
    refused, used = 'keys', keys
  elseif more_bytes > 0 and bytes + more_bytes > tonumber(ARGV[10]) then
    refused, used = 'bytes', bytes
  end
  if refused then
    local more = sweep()
    swept = swept + more
    if more == 0 then return finish(refused, text(used)) end
  end
until not refused

if not stored then
  if size then
    redis.call('DEL', entry)
    redis.call('HDEL', P .. 's', name)
    redis.call('ZREM', P .. 'i:' .. bucket, key)
    redis.call('ZREM', P .. 'x', name)
    keys, bytes = keys - 1, bytes - tonumber(size)
    count()
    return {'done', before and 'removed', false}
  end
  return finish('done', before and 'removed', false)
end

last = math.max(last + 1, micros)
local head = text(last) .. ' ' .. until_ .. ' '
redis.call('SET', entry, head .. stored)
if until_ ~= '0' then
  redis.call('PEXPIREAT', entry, until_)
  redis.call('ZADD', P .. 'x', until_, name)
elseif expires ~= '0' then
  -- Not only if the entry had an expiry: one that has expired may still be there.
  redis.call('ZREM', P .. 'x', name)
end
if not size then
  redis.call('ZADD', P .. 'i:' .. bucket, 0, key)
  redis.call('ZADD', P .. 'b', 0, bucket)
  keys = keys + 1
end
local new = #bucket + #key + #stored
bytes = bytes + new - tonumber(size or 0)
if not size or tonumber(size) ~= new then redis.call('HSET', P .. 's', name, text(new)) end
count()
-- The caller has the value of a put.
return {'done', false, change == 'put' and head or head .. stored}
