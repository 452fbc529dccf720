-- ARGV: the largest sum of values in bytes, then bucket and key of every entry. Returns the entries, or the sum if it is
-- larger.
local sum, entries = 0, {}
for index = 2, #ARGV, 2 do
  local entry = redis.call('GET', P .. 'e:' .. member(ARGV[index], ARGV[index + 1]))
  if entry then
    sum = sum + #string.match(entry, '^%d+ %d+ (.*)$')
    if sum > tonumber(ARGV[1]) then return sum end
  end
  entries[#entries + 1] = entry
end
return entries
