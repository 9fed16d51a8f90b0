#!lua
-- issue: put a new record in, with its version, its place in the list and the time of its issue.
--
-- KEYS[1] marker   [2] latest `issued` of the partition   [3] version   [4] bulk revocation of everything
-- KEYS[5] … of the subject   [6] … of the workspace   [7] … of the subject in it   [8] record   [9] list   [10] events
-- KEYS[11] version of who makes it, where that lies here too, else [3] again   [12] removal of the user whose it would be
-- KEYS[13] a user's password, or none
-- ARGV[1] id the store must have   [2] record (bytes)   [3] id   [4] event   [5] the password's hash
-- Returns {'OK', `issued` (µs) as text}, {'NOTOURS'}, {'EXISTS'}, {'REVOKED'}: who makes it is, or {'REMOVAL'}: that is
-- under way, and nobody makes anything for the subject.
-- `issued` is later than every bulk revocation here, so that a key made in the same microsecond, or after the clock went
-- back, lives; and `revoke_bulk.lua` never revokes up to less than the latest `issued`.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'NOTOURS' } end
if redis.call('EXISTS', KEYS[3]) == 1 then return { 'EXISTS' } end
if (tonumber(redis.call('GET', KEYS[11])) or 0) < 0 then return { 'REVOKED' } end
if redis.call('EXISTS', KEYS[12]) == 1 then return { 'REMOVAL' } end
local t = redis.call('TIME')
local function upto(key) return (tonumber(redis.call('GET', key)) or 0) + 1 end
local issued = math.max(t[1] * 1000000 + t[2], upto(KEYS[4]), upto(KEYS[5]), upto(KEYS[6]), upto(KEYS[7]))
local text = string.format('%.0f', issued)
if issued >= upto(KEYS[2]) then redis.call('SET', KEYS[2], text) end
redis.call('SET', KEYS[8], struct.pack('<d', issued) .. ARGV[2])
redis.call('ZADD', KEYS[9], text, ARGV[3])
redis.call('XADD', KEYS[10], 'MAXLEN', '~', 1000, '*', 'e', ARGV[4])
if KEYS[13] then redis.call('SET', KEYS[13], ARGV[5]) end
redis.call('SET', KEYS[3], '1')
return { 'OK', text }
