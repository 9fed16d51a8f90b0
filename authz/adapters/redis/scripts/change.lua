#!lua
-- change: put another record in the place of one that nobody has changed or revoked since it was read.
--
-- KEYS[1] marker   [2] version   [3] bulk revocation of everything   [4] … of the subject   [5] … of the workspace
-- KEYS[6] … of the subject in it   [7] record   [8] events   [9] what goes with the record, or none: a user's password
-- ARGV[1] id the store must have   [2] version that was read   [3] record (bytes)   [4] event   [5] the password's hash
-- Returns {'OK', version now standing as text}, {'NOTOURS'}, {'CHANGED'} or {'REVOKED'}. The time of issue stays.
-- A bulk revocation ends the sessions of users, and not their records.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'NOTOURS' } end
local version = tonumber(redis.call('GET', KEYS[2])) or 0
if version < 0 then return { 'REVOKED' } end
local record = redis.call('GET', KEYS[7])
if version ~= tonumber(ARGV[2]) or not record then return { 'CHANGED' } end
local issued = struct.unpack('<d', record)
for k = 3, 6 do
  if issued <= (tonumber(redis.call('GET', KEYS[k])) or 0) and not KEYS[9] then return { 'REVOKED' } end
end
redis.call('SET', KEYS[7], record:sub(1, 8) .. ARGV[3])
redis.call('XADD', KEYS[8], 'MAXLEN', '~', 1000, '*', 'e', ARGV[4])
if KEYS[9] then redis.call('SET', KEYS[9], ARGV[5]) end
local text = string.format('%.0f', version + 1)
redis.call('SET', KEYS[2], text)
return { 'OK', text }
