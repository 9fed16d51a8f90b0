#!lua
-- finish: the removal of a user is over: nothing of theirs lives, and keys may be made for the subject again. A second
-- time, or after somebody else did it, changes nothing.
--
-- KEYS[1] marker   [2] removal   [3] list of users   [4] events
-- ARGV[1] id the store must have   [2] id of the user   [3] event; empty: there is nothing to tell
-- Returns {'OK'} or {'NOTOURS'}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'NOTOURS' } end
if redis.call('GET', KEYS[2]) == ARGV[2] then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[3], ARGV[2])
  if ARGV[3] ~= '' then redis.call('XADD', KEYS[4], 'MAXLEN', '~', 1000, '*', 'e', ARGV[3]) end
end
return { 'OK' }
