#!lua
-- note: write down something that changed nothing in the store, such as that a token was shown.
--
-- KEYS[1] marker   [2] events
-- ARGV[1] id the store must have   [2] event
-- Returns {'OK'} or {'NOTOURS'}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'NOTOURS' } end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 1000, '*', 'e', ARGV[2])
return { 'OK' }
