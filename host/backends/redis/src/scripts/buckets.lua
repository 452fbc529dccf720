-- ARGV: after, limit. Returns the names of buckets after `after`.
local first, limit, buckets = '(' .. ARGV[1], tonumber(ARGV[2]), {}
if ARGV[1] == '' then first = '-' end
while true do
  local names = redis.call('ZRANGEBYLEX', P .. 'b', first, '+', 'LIMIT', 0, 256)
  for _, name in ipairs(names) do
    if #buckets == limit then return buckets end
    -- A bucket without keys stays in the index until somebody lists it.
    if redis.call('EXISTS', P .. 'i:' .. name) == 1 then
      buckets[#buckets + 1] = name
    else
      redis.call('ZREM', P .. 'b', name)
    end
    first = '(' .. name
  end
  if #names < 256 then return buckets end
end
