#!lua
-- retain: keep the sealed token of a key whose record is still the one that it was sealed for.
--
-- KEYS[1] marker   [2] version   [3] retained token
-- ARGV[1] id the store must have   [2] version   [3] sealed token; empty: keep none
-- Returns {'OK'}, {'NOTOURS'} or {'CHANGED'}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'NOTOURS' } end
if ARGV[3] == '' then redis.call('DEL', KEYS[3]); return { 'OK' } end
if tonumber(redis.call('GET', KEYS[2])) ~= tonumber(ARGV[2]) then return { 'CHANGED' } end
redis.call('SET', KEYS[3], ARGV[3])
return { 'OK' }
