-- Every script begins with this. KEYS[1] is the prefix of the namespace.
local P = KEYS[1]
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
-- Numbers up to 2^53 are exact.
local function text(number) return string.format('%.0f', number) end
local function member(bucket, key) return #bucket .. ':' .. bucket .. key end
