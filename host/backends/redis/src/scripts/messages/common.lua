-- Scripts on messages begin with this, after common.lua. KEYS[1] is the prefix of all messages. For each consumer:
--   x: consumers by the first tokens of their patterns; xd: a digest of these; xv: when it was compared, which lasts for INDEXED ms
--   s: its patterns; seen: when a host has received for it last; p:NAME: the hosts that do, until when
--   c:NAME: max, dead, messages, bytes: its subscription; waiting, size: its messages; buried: bytes of dead ones
--   q:NAME: its messages by the time at which they are due; l:NAME: those that are leased; o:NAME: when they were published
--   m:NAME: the messages, as SUBJECT, ORIGIN and the rest, in lines; a:NAME: ATTEMPT LEASE SIZE
--   d:NAME: dead messages, each with a line before it: SIZE DIED ATTEMPTS FAULT PUBLISHED PLACE; the first versions had SIZE alone
local ABSENCE, GAP, MAX_DEAD, INDEXED = 86400000, 600000, 1000, 10000
local EACH = {'p:', 'c:', 'q:', 'l:', 'o:', 'm:', 'a:', 'd:'}
local function following()
  local number = math.max(tonumber(redis.call('GET', P .. 'n') or 0) + 1, micros)
  redis.call('SET', P .. 'n', text(number))
  return string.format('%016.0f', number)
end
-- Time in which no host runs does not count as absence of a consumer.
local function awake()
  local last = tonumber(redis.call('GET', P .. 'awake') or now)
  if now - last > GAP then
    local seen = redis.call('ZRANGE', P .. 'seen', 0, -1, 'WITHSCORES')
    for index = 1, #seen, 2 do
      redis.call('ZADD', P .. 'seen', text(tonumber(seen[index + 1]) + now - last), seen[index])
    end
  end
  if now - last > 1000 or now == last then redis.call('SET', P .. 'awake', text(now)) end
end
-- Forgets the hosts that receive no more. Also the first write of scripts that a full server has to run: this one needs no memory.
local function trim(name)
  redis.call('ZREMRANGEBYSCORE', P .. 'p:' .. name, '-inf', text(now))
end
local function absent(name)
  return now - tonumber(redis.call('ZSCORE', P .. 'seen', name) or 0) >= ABSENCE
end
local function fits(pattern, subject)
  local following_token = string.gmatch(subject, '[^.]+')
  for wanted in string.gmatch(pattern, '[^.]+') do
    local token = following_token()
    if not token then return false end
    if wanted == '>' then return true end
    if wanted ~= '*' and wanted ~= token then return false end
  end
  return not following_token()
end
-- What a pattern or a subject is found by: its first tokens, as far as they are no wildcards.
local function places(tokens)
  local first, second = string.match(tokens, '^([^.]+)%.?([^.]*)')
  if first == '*' or first == '>' then return '*' end
  if second == '*' or second == '>' then return first .. '.*' end
  return second == '' and first or first .. '.' .. second
end
-- Makes the index anew if subscriptions have changed. Who subscribes removes `xv`; hosts of a version without the index do not.
local function index()
  local all = redis.call('HGETALL', P .. 's')
  local digest = redis.sha1hex(table.concat(all, '\n'))
  redis.call('SET', P .. 'xv', text(now))
  if redis.call('GET', P .. 'xd') == digest then return end
  local found = {}
  for position = 1, #all, 2 do
    for pattern in string.gmatch(all[position + 1], '%S+') do
      local at = places(pattern)
      local names = found[at] or {}
      found[at] = names
      if names[#names] ~= all[position] then names[#names + 1] = all[position] end
    end
  end
  redis.call('DEL', P .. 'x')
  local fields = {}
  local function write()
    if #fields > 0 then redis.call('HSET', P .. 'x', unpack(fields)) end
    fields = {}
  end
  for at, names in pairs(found) do
    fields[#fields + 1] = at
    fields[#fields + 1] = table.concat(names, '\n')
    if #fields >= 1000 then write() end
  end
  write()
  redis.call('SET', P .. 'xd', digest)
end
local function consumers(subject)
  local indexed = tonumber(redis.call('GET', P .. 'xv') or 0)
  if math.abs(now - indexed) >= INDEXED then index() end
  local exact = places(subject)
  local lists = redis.call('HMGET', P .. 'x', exact, string.match(exact, '^[^.]+') .. '.*', '*')
  local found, seen = {}, {}
  for position = 1, 3 do
    for name in string.gmatch(lists[position] or '', '[^\n]+') do
      if not seen[name] then
        seen[name] = true
        -- The index may name some that have no subscription any more.
        for pattern in string.gmatch(redis.call('HGET', P .. 's', name) or '', '%S+') do
          if fits(pattern, subject) then
            if not absent(name) then found[#found + 1] = name end
            break
          end
        end
      end
    end
  end
  return found
end
-- Returns whether a consumer has room for a message; if not, what is used up, how much is used, and the limit.
local function room(name, size)
  local used = redis.call('HMGET', P .. 'c:' .. name, 'waiting', 'messages', 'size', 'bytes')
  if tonumber(used[1]) >= tonumber(used[2]) then return false, 'messages', used[1], used[2] end
  if tonumber(used[3]) + size > tonumber(used[4]) then return false, 'bytes', used[3], used[4] end
  return true
end
-- Stores a message for a consumer, to be delivered now.
local function add(name, size, message, published)
  local id = following()
  redis.call('HSET', P .. 'm:' .. name, id, message)
  redis.call('HSET', P .. 'a:' .. name, id, '0 0 ' .. text(size))
  redis.call('ZADD', P .. 'q:' .. name, text(now), id)
  redis.call('ZADD', P .. 'o:' .. name, text(published), id)
  redis.call('HINCRBY', P .. 'c:' .. name, 'waiting', 1)
  redis.call('HINCRBY', P .. 'c:' .. name, 'size', text(size))
end
-- Stores a message for all of its consumers, and returns them; or false, what is used up, how much is used, and the limit.
local function store(subject, size, message, published)
  local found = consumers(subject)
  for _, name in ipairs(found) do
    local fits, resource, used, limit = room(name, size)
    if not fits then return false, resource, used, limit end
  end
  for _, name in ipairs(found) do add(name, size, message, published) end
  return found
end
local function remove(name, id, size)
  redis.call('HDEL', P .. 'm:' .. name, id)
  redis.call('HDEL', P .. 'a:' .. name, id)
  redis.call('ZREM', P .. 'q:' .. name, id)
  redis.call('ZREM', P .. 'l:' .. name, id)
  redis.call('ZREM', P .. 'o:' .. name, id)
  redis.call('HINCRBY', P .. 'c:' .. name, 'waiting', -1)
  redis.call('HINCRBY', P .. 'c:' .. name, 'size', '-' .. text(size))
end
-- Ends the life of a message: it goes to the dead-letter subject once, or is kept apart.
local function bury(name, id, size, fault)
  local message = redis.call('HGET', P .. 'm:' .. name, id)
  local published = tonumber(redis.call('ZSCORE', P .. 'o:' .. name, id))
  local attempts = string.match(redis.call('HGET', P .. 'a:' .. name, id), '^%d+')
  remove(name, id, size)
  local subject, origin, rest = string.match(message, '^([^\n]*)\n([^\n]*)\n()')
  local letters = redis.call('HGET', P .. 'c:' .. name, 'dead')
  if letters ~= '' and origin == '' then
    local letter = letters .. '\n' .. subject .. '\n' .. string.sub(message, rest)
    local moved = store(letters, size - #subject + #letters, letter, published)
    -- Without a consumer, or without room, it is kept where it died.
    if moved and #moved > 0 then return end
  end
  local line = table.concat({text(size), text(now), attempts, fault, text(published), following()}, ' ')
  redis.call('RPUSH', P .. 'd:' .. name, line .. '\n' .. message)
  local buried = redis.call('HINCRBY', P .. 'c:' .. name, 'buried', text(size))
  local limit = tonumber(redis.call('HGET', P .. 'c:' .. name, 'bytes'))
  while redis.call('LLEN', P .. 'd:' .. name) > MAX_DEAD or buried > limit do
    local oldest = redis.call('LPOP', P .. 'd:' .. name)
    if not oldest then break end
    buried = redis.call('HINCRBY', P .. 'c:' .. name, 'buried', '-' .. string.match(oldest, '^%d+'))
  end
end
-- The place of a dead message; of one without, such that it comes before all others.
local function place(entry, index)
  local line = string.match(entry, '^[^\n]*')
  return string.match(line, '^%d+ %d+ %d+ %S+ %d+ (%S+)$') or string.format('%08d', index)
end
-- What is known of a message: its attempts, its lease, and its size.
local function state(name, id)
  local known = redis.call('HGET', P .. 'a:' .. name, id)
  if not known then return nil end
  local attempt, lease, size = string.match(known, '^(%d+) (%d+) (%d+)$')
  return tonumber(attempt), lease, tonumber(size)
end
local function discard(name)
  for _, kind in ipairs(EACH) do redis.call('UNLINK', P .. kind .. name) end
  redis.call('HDEL', P .. 's', name)
  redis.call('ZREM', P .. 'seen', name)
end
