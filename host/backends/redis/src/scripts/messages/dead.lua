-- ARGV: consumer, the place after which it begins or '', the most, the bytes after which it is enough, or the only place. Returns the
-- places and entries of dead messages. Those without a place have the number of their order.
local name, after, most, enough, only = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local found, bytes = {}, 0
local index, entries = 0, nil
repeat
  -- A few at a time: they can be large.
  entries = redis.call('LRANGE', P .. 'd:' .. name, index, index + 15)
  for _, entry in ipairs(entries) do
    if #found >= most * 2 or bytes >= enough then return found end
    index = index + 1
    local at = place(entry, index)
    if only == at or only == '' and at > after then
      found[#found + 1] = at
      found[#found + 1] = entry
      bytes = bytes + #entry
    end
  end
until #entries == 0
return found
