#!lua
-- revoke_bulk: everything of a subject or a workspace issued up to now, in one partition.
--
-- KEYS[1] marker   [2] latest `issued` of the partition   [3] bulk revocation (µs)
-- ARGV[1] id the store must have
-- Returns the time now standing (µs) as text, or an error: NOTOURS.
-- "Now" is never before what was issued here: after a clock that went back, the newest keys would live otherwise.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('NOTOURS') end
local t = redis.call('TIME')
local function at(key) return tonumber(redis.call('GET', key)) or 0 end
local text = string.format('%.0f', math.max(t[1] * 1000000 + t[2], at(KEYS[2]), at(KEYS[3])))
redis.call('SET', KEYS[3], text)
return text
