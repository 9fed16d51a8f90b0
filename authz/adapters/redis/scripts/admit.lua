#!lua
-- admit: judge a batch of checks in one atomic step. The shebang (no flags) makes the server refuse it at once on a
-- replica, a full store (noeviction) or across slots: a check that writes nothing must not be answered by a stale replica.
--
-- KEYS   for each check, in order:
--          m   marker of the partition            string: id of this store; missing = wiped or never used
--          v   version of the key's record        string: whole number; negative = revoked; missing = no record
--          a   everything revoked up to           string: µs; missing = never
--          x   subject revoked up to              string: µs; missing = never      (only if flag 2)
--          w   workspace revoked up to            string: µs; missing = never      (only if flag 4)
--          y   … its subject revoked up to        string: µs; missing = never      (only if flag 4)
--          l   last used                          string: µs; written if admitted  (only if flag 8)
--          g…  one per group of buckets           string: 32 bytes a bucket (`state` below); missing = all full
-- ARGV[1] id the store must have
-- ARGV[2] the checks, concatenated; each, little-endian:
--          B flags: 1 spend (else only look), 2 x present, 4 w and y present, 8 l present
--          B number of groups
--          d version the caller knows; 0 = the caller knows of no record
--          d issued (µs; compared with a, x, w and y)   d token is dead from (µs; 0 = never)
--          each group: B number of buckets (always the same for a key); each bucket: I4 capacity (units), I4 period (s),
--          I4 cost (units); capacity 0 = no limit in this place
-- Returns one flat array of whole numbers: the store's clock (µs), then for each check:
--          status  0 admitted · 1 refused by a bucket · 2 version is stale · 3 key revoked · 4 revoked in bulk
--                  5 no such record · 6 not our store · 7 token dead · 8 its state cannot be read
--                  (2 to 8: nothing more follows)
--          bucket that refused (from 1; 0 none), wait until admitted (µs; 0 now, -1 never)
--          then each bucket: level left (units; < 0 owed; 0 where no limit), time until full (µs)
-- state: d capacity, d period (s), d anchor (µs), d spent (units): see authz/core/bucket.py, which this equals. Never format a
-- number with `..`: Lua prints 14 digits, a time in µs has 16.
local values = unpack
local read = redis.call('MGET', values(KEYS))    -- every read of the batch, once
local t = redis.call('TIME')
local US, DEBT = 1000000, 2251799813685248      -- DEBT: 2^51 µs, the longest that a debt is remembered
local now = t[1] * US + t[2]
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local unpack, pack = struct.unpack, struct.pack
local id, blob = ARGV[1], ARGV[2]
local last, ttl = {}, {}                        -- group key → its state after the checks so far; → ms it must live
local used = {}                                 -- names of `l` to be written
local N, P, A, S, L, C, E = {}, {}, {}, {}, {}, {}, {}  -- this check's buckets; E: last bucket of each group
local X, FORMAT = {}, { '<dddd', '<dddddddd' }        -- a group's state to be packed
local out, o, k, pos, size = { now }, 1, 1, 1, #blob

local function needed(s, n, p)                  -- µs in which s units are regained
  local whole = floor(s / n)
  s = (s - whole * n) * p
  local sec = floor(s / n)
  return (whole * p + sec) * US + ceil((s - sec * n) * US / n)
end

while pos <= size do
  local flags, groups, version, issued, dead
  flags, groups, version, issued, dead, pos = unpack('<BBddd', blob, pos)
  local status, v = 0, read[k + 1]
  if read[k] ~= id then status = 6
  elseif v then
    v = tonumber(v)
    if not v or v ~= v then status = 8 elseif v < 0 then status = 3 elseif v ~= version then status = 2 end
  elseif version ~= 0 then status = 5 end
  local bulk = k + 2                            -- a, then x, w and y where present
  if flags % 4 >= 2 then bulk = bulk + 1 end
  if flags % 8 >= 4 then bulk = bulk + 2 end
  for i = k + 2, bulk do
    local upto = read[i]
    if upto and status == 0 then
      upto = tonumber(upto)
      if not upto or upto ~= upto then status = 8 elseif issued <= upto then status = 4 end
    end
  end
  k = bulk + 1
  local touched
  if flags >= 8 then touched = KEYS[k]; k = k + 1 end
  if dead > 0 and now >= dead and status == 0 then status = 7 end
  if status ~= 0 then
    for _ = 1, groups do                        -- step over its buckets
      local count
      count, pos = unpack('<B', blob, pos)
      pos = pos + 12 * count
    end
    o = o + 1; out[o] = status
  else
    local spend, wait, refused, changed, B, damaged = flags % 2 == 1, 0, 0, false, 0, false
    for g = 1, groups do                        -- look at every bucket
      local key, count = KEYS[k + g - 1]
      local state = last[key] or read[k + g - 1]
      if state and #state % 32 ~= 0 then damaged = true; state = nil end
      count, pos = unpack('<B', blob, pos)
      for b = 0, count - 1 do
        local n, p, c
        n, p, c, pos = unpack('<I4I4I4', blob, pos)
        B = B + 1
        local a, s, level = now, 0, n
        if n > 0 and state and #state > 32 * b then
          local n0, p0
          n0, p0, a, s = unpack('<dddd', state, 32 * b + 1)
          if n0 ~= n0 or p0 ~= p0 or a ~= a or s ~= s then damaged = true; n0, p0, a, s = 0, 1, now, 0 end
          if now < a then a = now end           -- the clock went back
          local r, f, span = now - a, 0, p0 * US
          if r >= span and s > 0 then           -- strike out whole periods
            local whole = floor(r / span)
            a = a + whole * span; r = r - whole * span; s = s - whole * n0
          end
          if s > 0 then
            local sec = floor(r / US)
            f = floor((sec * n0 + floor((r - sec * US) * n0 / US)) / p0)
          end
          if s <= f then a, s = now, 0          -- full
          elseif n0 ~= n or p0 ~= p then        -- limits changed
            s = max(0, min(n - n0 + s - f, n * floor(DEBT / (p * US)), DEBT)); a = now; level = n - s; changed = true
          else level = n - s + f end
        end
        if level < c and n > 0 then
          local d = -1
          if c <= n then d = a + needed(s + c - n, n, p) - now end
          if wait >= 0 and (d < 0 or d > wait) then wait, refused = d, B end
        end
        N[B], P[B], A[B], S[B], L[B], C[B] = n, p, a, s, level, c
      end
      E[g] = B
    end
    if damaged then
      o = o + 1; out[o] = 8
    else
      local ok = refused == 0
      out[o + 1], out[o + 2], out[o + 3] = ok and 0 or 1, refused, wait
      o = o + 3
      ok = ok and spend
      if ok and touched then used[touched] = true end
      local write, b = ok or changed and spend, 1
      for g = 1, groups do                        -- spend from all or from none
        local live, x = 0, 0
        for i = b, E[g] do
          local n, p, s, level, full = N[i], P[i], S[i], L[i], 0
          if n > 0 then
            if ok and C[i] > 0 then
              s = min(s + C[i], n * floor(DEBT / (p * US)), DEBT); level = level - C[i]
            end
            if s > 0 then
              full = A[i] + needed(s, n, p) - now
              if full > live then live = full end
            end
          end
          X[x + 1], X[x + 2], X[x + 3], X[x + 4] = n, p, A[i], s
          x = x + 4
          out[o + 1], out[o + 2] = level, full
          o = o + 2
        end
        b = E[g] + 1
        if write and live > 0 then
          local key = KEYS[k + g - 1]
          last[key] = pack(FORMAT[x / 4] or '<' .. string.rep('d', x), values(X, 1, x))
          ttl[key] = ceil(live / 1000)
        end
      end
    end
  end
  k = k + groups
end
for key, ms in pairs(ttl) do redis.call('SET', key, last[key], 'PX', ms) end  -- every touched group, once
for key in pairs(used) do redis.call('SET', key, string.format('%.0f', now)) end
return out
