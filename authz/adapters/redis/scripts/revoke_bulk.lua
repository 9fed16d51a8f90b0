#!lua
-- revoke_bulk: everything of a subject (in a workspace), of a workspace, or everything, issued up to a moment, in one
-- partition.
--
-- KEYS[1] marker   [2] latest `issued` of the partition   [3] bulk revocation (µs)   [4] events
-- ARGV[1] id the store must have   [2] the moment (µs); empty: now   [3] event; empty: it is told elsewhere
-- Returns {'OK', time now standing (µs) as text} or {'NOTOURS'}.
-- "Now" is never before what was issued here: after a clock that went back, the newest keys would live otherwise. The
-- moment that stands never goes back: nothing un-revokes a key.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'NOTOURS' } end
local t = redis.call('TIME')
local function at(key) return tonumber(redis.call('GET', key)) or 0 end
local upto = math.max(t[1] * 1000000 + t[2], at(KEYS[2]))
if ARGV[2] ~= '' then upto = math.min(upto, tonumber(ARGV[2])) end
local text = string.format('%.0f', math.max(upto, at(KEYS[3])))
redis.call('SET', KEYS[3], text)
if ARGV[3] ~= '' then redis.call('XADD', KEYS[4], 'MAXLEN', '~', 1000, '*', 'e', ARGV[3]) end
return { 'OK', text }
