#!lua
-- revoke: one key or user, for ever. A second time changes nothing; a key without a record is revoked as well.
--
-- KEYS[1] marker   [2] version   [3] when and why   [4] events   [5] what must not stay: a retained token, a password
-- KEYS[6] removal of a user, or none: it begins with the user's own record, and a key is revoked only while it lasts
-- ARGV[1] id the store must have   [2] reason   [3] event; empty: it is told elsewhere
-- ARGV[4] id of that user   [5] 'begin', or empty
-- Returns {'OK', version now standing (negative) as text}, {'NOTOURS'} or {'CHANGED'}: the removal is over.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'NOTOURS' } end
if KEYS[6] and ARGV[5] == '' and redis.call('GET', KEYS[6]) ~= ARGV[4] then return { 'CHANGED' } end
local version = tonumber(redis.call('GET', KEYS[2])) or 0
if version >= 0 then
  local t = redis.call('TIME')
  redis.call('SET', KEYS[3], string.format('%.0f', t[1] * 1000000 + t[2]) .. ' ' .. ARGV[2])
  version = -(version + 1)
  redis.call('SET', KEYS[2], string.format('%.0f', version))
  if ARGV[5] == 'begin' then redis.call('SET', KEYS[6], ARGV[4]) end
  if ARGV[3] ~= '' then redis.call('XADD', KEYS[4], 'MAXLEN', '~', 1000, '*', 'e', ARGV[3]) end
end
redis.call('DEL', KEYS[5])
return { 'OK', string.format('%.0f', version) }
