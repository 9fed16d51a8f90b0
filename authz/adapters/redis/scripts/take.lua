#!lua
-- take: take over a user's name from whoever holds it, if that is still who it was.
--
-- KEYS[1] marker   [2] name
-- ARGV[1] id the store must have   [2] id of the user that held it   [3] id of the new one
-- Returns {'OK'}, {'NOTOURS'} or {'CHANGED'}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'NOTOURS' } end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return { 'CHANGED' } end
redis.call('SET', KEYS[2], ARGV[3])
return { 'OK' }
