#!lua
-- revoke: one key, for ever. A second time changes nothing; a key without a record is revoked as well.
--
-- KEYS[1] marker   [2] version   [3] when and why
-- ARGV[1] id the store must have   ARGV[2] reason
-- Returns the version now standing (negative), or an error: NOTOURS.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('NOTOURS') end
local version = tonumber(redis.call('GET', KEYS[2])) or 0
if version < 0 then return version end
local t = redis.call('TIME')
redis.call('SET', KEYS[3], string.format('%.0f', t[1] * 1000000 + t[2]) .. ' ' .. ARGV[2])
redis.call('SET', KEYS[2], string.format('%.0f', -(version + 1)))
return -(version + 1)
