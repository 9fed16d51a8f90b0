#!lua
-- settle: book a batch of requests that are over, each once: correct their buckets, add to the counts of their owners.
-- A Lua script is not rolled back, so a booking is marked before anything else of it is written: one that is cut off may
-- be lost, and is never booked twice. All else is read first, and written at the end.
--
-- KEYS   for each booking, in order:
--          m   marker of the partition            string: id of this store; missing = wiped or never used
--          s   decisions that are settled         bitmap of a sidecar's next 8,192 in the partition
--          k   counts of the key                  hash: model → counts (below); '' = none was named
--          o   of its models within the hour      hash: workspace NUL subject NUL key NUL model → counts
--          d   … and within the day               the same
--          a   counts of the partition            hash: model → counts
--          c…  of the other owners                the same; as many as the booking says
--          l   last used                          string: µs; never lowered        (only if flag 8)
--          g…  one per bucket to correct          string: as in `admit.lua`; its second 32 bytes are the bucket of tokens
-- ARGV[1] id the store must have
-- ARGV[2] bounds: I4 age up to which a decision is booked (s), I4 names of models an owner has, I4 s an hour's counts are
--          kept, I4 s a day's, I4 s those of a key without a record
-- ARGV[3] the bookings, concatenated; each, little-endian:
--          B flags: 1 allowed (else denied), 2 the key has a record, 4 it may name a new model, 8 l present
--          I2 place in the bitmap   d decided (µs)   I4 input   I4 output (tokens)
--          I4 length and bytes of the field in the hour, up to the model   I4 length and bytes of the model
--          B other owners   B buckets; each: I4 capacity, I4 period (s): the limit it was spent under; d units to spend more
-- Returns one string, a byte for each: 0 booked · 1 was booked before · 2 too old to be booked, or more than an hour ahead
--          6 not our store · 8 something of it cannot be read and was left as it is (the rest of it is booked; if it is the
--          bitmap that cannot be read, nothing is)
-- counts: d requests, d denied, d input, d output (tokens): whole numbers.
--
-- Why a bitmap may be forgotten. A bit is set at S, and its bitmap kept until S + age + 1 h, or longer where others settle
-- into it. Its decision, of the time T, is booked until T + age. As T <= S + 1 h (see status 2), it is refused for its age
-- before the bit is forgotten; by the same clock, so a jump of the clock moves both.
local values, unpack, pack = unpack, struct.unpack, struct.pack
local call, try = redis.call, redis.pcall
local t = redis.call('TIME')
local US, DEBT, EXACT = 1000000, 2251799813685248, 9007199254740992
local HOUR, MOST_UNITS, MOST_PERIOD = 3600, 1000000000, 2678400
local now = t[1] * US + t[2]
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local id, blob = ARGV[1], ARGV[3]
local AGE, MODELS, HOUR_KEPT, DAY_KEPT, KEY_KEPT = unpack('<I4I4I4I4I4', ARGV[2])
local ours, bits = {}, {}                       -- marker → is it ours? bitmaps that were set
local sums, named, kept = {}, {}, {}            -- hash → field → its counts, false: not to be read; → names; → how long
local groups, used, later = {}, {}, {}          -- group → its state; `l` → µs, false: not to be read; those to be written
local out, o, k, pos, size = {}, 0, 1, 1, #blob

local function whole(x, most) return x >= 0 and x <= most and floor(x) == x end  -- no NaN is

local function needed(s, n, p)                  -- µs in which s units are regained
  local periods = floor(s / n)
  s = (s - periods * n) * p
  local sec = floor(s / n)
  return (periods * p + sec) * US + ceil((s - sec * n) * US / n)
end

local function counts(hash, field)              -- nil: there are none; false: they cannot be read
  local fields = sums[hash]
  if not fields then fields = {}; sums[hash] = fields end
  local c = fields[field]
  if c ~= nil then return c end
  local raw = try('HGET', hash, field)
  if not raw then return nil end
  c = false                                     -- unless it is:
  if type(raw) == 'string' and #raw == 32 then
    local r, d, i, u = unpack('<dddd', raw)
    if whole(r, EXACT) and whole(d, EXACT) and whole(i, EXACT) and whole(u, EXACT) then c = { r, d, i, u } end
  end
  fields[field] = c
  return c
end

local function add(hash, field, c, r, d, i, u)  -- c: as `counts` has them
  if c then c[1], c[2], c[3], c[4] = c[1] + r, c[2] + d, c[3] + i, c[4] + u
  elseif c == nil then sums[hash][field] = { r, d, i, u } end
  return c ~= false
end

local function add_model(hash, model, may_name, r, d, i, u)  -- was it added? the name it was counted under
  local c = counts(hash, model)
  if c == nil and model ~= '' and model ~= 'other' then
    local names = named[hash]
    if not names then names = call('HLEN', hash) - call('HEXISTS', hash, '') - call('HEXISTS', hash, 'other') end
    if may_name and names < MODELS then names = names + 1
    else model = 'other'; c = counts(hash, model) end
    named[hash] = names
  elseif c == false and model ~= '' and try('HEXISTS', hash, model) ~= 1 then
    model = 'other'                             -- the hash is none: nobody knows how many names there are
  end
  return add(hash, model, c, r, d, i, u), model
end

local function correct(key, n, p, delta)        -- could it be read?
  local g = groups[key]
  if g == nil then
    local raw = try('GET', key) or ''
    g = type(raw) == 'string' and #raw % 32 == 0 and { state = raw }
    groups[key] = g
  end
  if not g then return false end
  local n0, p0, a, s, f = 0, 0, 0, 0, 0
  if #g.state > 32 then
    n0, p0, a, s = unpack('<dddd', g.state, 33)
    if not (whole(n0, MOST_UNITS) and whole(p0, MOST_PERIOD) and whole(a, EXACT) and whole(s, DEBT)) then return false end
    if n0 > 0 and p0 == 0 then return false end
  end
  if n0 == 0 then                               -- no account: full
    if delta < 0 then return true end
    a, s = now, 0
  else
    n, p = n0, p0
    if now < a then a = now end                 -- the clock went back
    local r, span = now - a, p * US
    if r >= span and s > 0 then                 -- strike out whole periods
      local periods = floor(r / span)
      a = a + periods * span; r = r - periods * span; s = s - periods * n
    end
    if s > 0 then
      local sec = floor(r / US)
      f = floor((sec * n + floor((r - sec * US) * n / US)) / p)
    end
    if s <= f then a, s, f = now, 0, 0 end      -- full
  end
  s = max(0, min(s + delta, n * floor(DEBT / (p * US)), DEBT))
  if s > f then g.live = a + needed(s, n, p) - now
  else n, p, a, s = 0, 0, 0, 0; g.live = 0 end
  local before = g.state:sub(1, 32)
  if before == '' then before = pack('<dddd', 0, 0, 0, 0) end  -- of requests there is no account either
  g.state = before .. pack('<dddd', n, p, a, s) .. g.state:sub(65)
  return true
end

local function was_used(key, at)                -- could it be read?
  local last = used[key]
  if last == nil then
    local raw = try('GET', key) or '0'
    last = type(raw) == 'string' and #raw <= 16 and raw:find('^%d+$') and tonumber(raw) or false
  end
  if last and at > last then last = at; later[key] = true end
  used[key] = last
  return last
end

while pos <= size do
  local flags, bit, at, tin, tout, field, model, others, buckets
  flags, bit, at, tin, tout, field, model, others, buckets, pos = unpack('<BI2dI4I4I4c0I4c0BB', blob, pos)
  local m, s, key, hour, day = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4]
  local owner = k + 5                           -- a, then the others
  k = owner + 1 + others
  local allowed, recorded, may_name, touch = flags % 2 >= 1, flags % 4 >= 2, flags % 8 >= 4, flags >= 8
  local last = KEYS[k]
  if touch then k = k + 1 end
  local status = 0
  if ours[m] == nil then ours[m] = try('GET', m) == id end
  if not ours[m] then status = 6
  elseif now - at > AGE * US or at - now > HOUR * US then status = 2
  else
    local was = try('SETBIT', s, bit, 1)
    if was == 1 then status = 1 elseif was ~= 0 then status = 8 else bits[s] = true end
  end
  if status == 0 then
    local r, d = 1, 0
    if not allowed then r, d = 0, 1 end
    local ok, name = add_model(key, model, may_name, r, d, tin, tout)
    local all = ok
    for i = owner, owner + others do
      ok = add_model(KEYS[i], model, may_name, r, d, tin, tout); all = all and ok
    end
    name = field .. name
    ok = add(hour, name, counts(hour, name), r, d, tin, tout); all = all and ok
    ok = add(day, name, counts(day, name), r, d, tin, tout); all = all and ok
    kept[hour], kept[day] = HOUR_KEPT, DAY_KEPT
    if recorded then kept[key] = 0 elseif not kept[key] then kept[key] = -KEY_KEPT end
    if touch then ok = was_used(last, at); all = all and ok end
    for i = 0, buckets - 1 do
      local n, p, delta
      n, p, delta, pos = unpack('<I4I4d', blob, pos)
      ok = correct(KEYS[k + i], n, p, delta); all = all and ok
    end
    if not all then status = 8 end
  else pos = pos + 16 * buckets end
  k = k + buckets
  o = o + 1; out[o] = string.char(status)
end

for key in pairs(bits) do call('EXPIRE', key, AGE + HOUR) end
for key, fields in pairs(sums) do
  local told, x = {}, 0
  for field, c in pairs(fields) do
    if c then told[x + 1], told[x + 2] = field, pack('<dddd', c[1], c[2], c[3], c[4]); x = x + 2 end
  end
  if x > 0 then
    local new, seconds = call('HSET', key, values(told)), kept[key]
    if seconds == 0 then call('PERSIST', key)   -- a key with a record: for ever, even if it had none before
    elseif seconds and seconds < 0 then         -- one without: but what is kept for ever stays so
      if new == call('HLEN', key) then call('EXPIRE', key, -seconds) else call('EXPIRE', key, -seconds, 'XX') end
    elseif seconds and new > 0 then call('EXPIRE', key, seconds) end  -- with its first field, if not again
  end
end
for key in pairs(later) do call('SET', key, string.format('%.0f', used[key])) end
for key, g in pairs(groups) do
  if g and g.live then                          -- as long as it was to live for the requests, or longer for the tokens
    local left = call('PTTL', key)
    local ms = max(left, ceil(g.live / 1000))
    if left == -1 then call('SET', key, g.state)
    elseif ms > 0 or left == 0 then call('SET', key, g.state, 'PX', max(1, ms)) end
  end
end
return table.concat(out)
