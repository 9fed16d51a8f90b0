#!lua
-- issue: put a new record in, with its version, its place in the list and the time of its issue.
--
-- KEYS[1] marker   [2] latest `issued` of the partition   [3] version   [4] bulk revocation of the subject
-- KEYS[5] bulk revocation of the workspace   [6] record   [7] list
-- ARGV[1] id the store must have   ARGV[2] record (bytes)   ARGV[3] key id
-- Returns `issued` (µs) as text, or an error: NOTOURS, EXISTS.
-- `issued` is later than every bulk revocation here, so that a key made in the same microsecond, or after the clock went
-- back, lives; and `revoke_bulk.lua` never revokes up to less than the latest `issued`.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('NOTOURS') end
if redis.call('EXISTS', KEYS[3]) == 1 then return redis.error_reply('EXISTS') end
local t = redis.call('TIME')
local function upto(key) return (tonumber(redis.call('GET', key)) or 0) + 1 end
local issued = math.max(t[1] * 1000000 + t[2], upto(KEYS[4]), upto(KEYS[5]))
local text = string.format('%.0f', issued)
if issued >= upto(KEYS[2]) then redis.call('SET', KEYS[2], text) end
redis.call('SET', KEYS[6], struct.pack('<d', issued) .. ARGV[2])
redis.call('ZADD', KEYS[7], text, ARGV[3])
redis.call('SET', KEYS[3], '1')
return text
