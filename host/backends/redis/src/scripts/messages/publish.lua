-- ARGV: subject, size, message. Returns {'done', consumers...}, or {what is used up, used, limit}.
awake()
local found, refused, used, limit = store(ARGV[1], tonumber(ARGV[2]), ARGV[3], now)
if not found then return {refused, used, limit} end
return {'done', found}
