-- ARGV: consumer, place or '' for all, 'retry' or 'drop'. Returns {'done', how many}, or {what is used up, used, limit}.
local name, only, retry = ARGV[1], ARGV[2], ARGV[3] == 'retry'
-- First, since a server that is full refuses a script only before its first write, and what is dropped makes room.
trim(name)
local ended, index, entries = 0, 0, nil
repeat
  entries = redis.call('LRANGE', P .. 'd:' .. name, index, index + 15)
  for _, entry in ipairs(entries) do
    index = index + 1
    if only == '' or only == place(entry, index + ended) then
      local line, message = string.match(entry, '^([^\n]*)\n(.*)$')
      local size = tonumber(string.match(line, '^%d+'))
      if retry then
        local fits, resource, used, limit = room(name, size)
        if not fits then return ended > 0 and {'done', text(ended)} or {resource, used, limit} end
        local published = string.match(line, '^%d+ %d+ %d+ %S+ (%d+) %S+$')
        add(name, size, message, tonumber(published or now))
      end
      redis.call('LREM', P .. 'd:' .. name, 1, entry)
      redis.call('HINCRBY', P .. 'c:' .. name, 'buried', '-' .. text(size))
      index, ended = index - 1, ended + 1
      if only ~= '' then return {'done', '1'} end
    end
  end
until #entries == 0
return {'done', text(ended)}
