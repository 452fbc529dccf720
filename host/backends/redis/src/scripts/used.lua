-- Returns the keys and bytes in use.
if swept > 0 then count() end
return {text(keys), text(bytes)}
