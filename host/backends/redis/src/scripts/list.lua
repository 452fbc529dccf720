-- ARGV: bucket, prefix, the first key as ZRANGEBYLEX has it, limit. Returns the cursor of the next page or false, and the keys.
local bucket, prefix, first, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local keys, examined = {}, 0
while true do
  local names = redis.call('ZRANGEBYLEX', P .. 'i:' .. bucket, first, '+', 'LIMIT', 0, 256)
  for _, name in ipairs(names) do
    if string.sub(name, 1, #prefix) ~= prefix then return {false, keys} end
    if #keys == limit then return {keys[limit], keys} end
    examined = examined + 1
    -- An entry that has expired is in the index until a write removes it.
    if redis.call('EXISTS', P .. 'e:' .. member(bucket, name)) == 1 then
      keys[#keys + 1] = name
    elseif examined > 4096 then
      return {name, keys}
    end
    first = '(' .. name
  end
  if #names < 256 then return {false, keys} end
end
