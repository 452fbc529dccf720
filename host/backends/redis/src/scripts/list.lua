-- ARGV: bucket, prefix, the first key as ZRANGEBYLEX has it, limit. Returns the cursor of the next page or false, and the keys.
local bucket, prefix, first, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local keys, examined = {}, 0
-- Whether a name is UTF-8, as all keys of Lodge are. Others were written by another program, and cannot be a cursor.
local sequences = {'[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
  '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
  '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]'}
local function is_text(name)
  for _, sequence in ipairs(sequences) do
    if not string.find(name, '[\128-\255]') then return true end
    name = string.gsub(name, sequence, '.')
  end
  return not string.find(name, '[\128-\255]')
end
while true do
  local names = redis.call('ZRANGEBYLEX', P .. 'i:' .. bucket, first, '+', 'LIMIT', 0, 256)
  for _, name in ipairs(names) do
    if string.sub(name, 1, #prefix) ~= prefix then return {false, keys} end
    if is_text(name) then
      if #keys == limit then return {keys[limit], keys} end
      examined = examined + 1
      -- An entry that has expired is in the index until a write removes it.
      if redis.call('EXISTS', P .. 'e:' .. member(bucket, name)) == 1 then
        keys[#keys + 1] = name
      elseif examined > 4096 then
        return {name, keys}
      end
    end
    first = '(' .. name
  end
  if #names < 256 then return {false, keys} end
end
