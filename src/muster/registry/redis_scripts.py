"""The Lua that Redis runs for us: each script is one atomic step.

A set is compared where it is stored, so the fence is judged on what is there at that moment. ``stored`` reads a set and
``alias`` an alias: what is no JSON object of ours, of a newer schema, or another type of Redis is foreign, and no
script touches it. Epochs are numbers below 2⁵³, which Lua holds exactly.

All keys are handed over as KEYS. They are many, so this does not run on Redis Cluster, where a script may only touch
keys of one slot.
"""

_JSON = """
local function json_at(key, newest)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return nil end
  if kind ~= 'string' then return nil, 'a ' .. kind end
  local is_json, value = pcall(cjson.decode, redis.call('GET', key))
  if not is_json or type(value) ~= 'table' then return nil, 'no JSON object' end
  if type(value.schema) ~= 'number' then return nil, 'no schema' end
  if value.schema > tonumber(newest) then
    return nil, 'schema ' .. value.schema .. ', newer than ours: upgrade muster'
  end
  return value
end
"""

_STORED = (
    _JSON
    + """
local function stored(key)
  local set, foreign = json_at(key, ARGV[1])
  if not set then return nil, foreign end
  for name, kind in pairs({epoch = 'number', revision = 'number', endpoints = 'table', published_at = 'string'}) do
    if type(set[name]) ~= kind then return nil, 'no ' .. name end
  end
  return set
end
"""
)

_ALIAS = (
    _JSON
    + """
local function alias(key)
  local value, foreign = json_at(key, ARGV[1])
  if value and type(value.target) ~= 'table' then return nil, 'no target' end
  return value, foreign
end
"""
)

PUBLISH = (
    _STORED
    + """
-- KEYS set, index; ARGV schema, value, epoch, revision, path
local set, foreign = stored(KEYS[1])
if foreign then return {'foreign', foreign} end
local epoch, revision = tonumber(ARGV[3]), tonumber(ARGV[4])
if set and (set.epoch > epoch or (set.epoch == epoch and set.revision >= revision)) then
  return {'fenced', string.format('(%.0f, %.0f)', set.epoch, set.revision)}
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[5])
redis.call('PUBLISH', KEYS[1], '')
return {'stored'}
"""
)

CLAIM = (
    _STORED
    + """
-- KEYS claims, then a set for each path; ARGV schema, publisher, floor, how many dead, the dead, the paths
local dead, at = {[ARGV[2]] = true}, 5
for _ = 1, tonumber(ARGV[4]) do dead[ARGV[at]] = true; at = at + 1 end
local function is_claim(value)
  return type(value) == 'table' and #value == 2 and type(value[1]) == 'string' and type(value[2]) == 'number'
end
local answer = {}
for number = 2, #KEYS do
  local path = ARGV[at + number - 2]
  local set, foreign = stored(KEYS[number])
  local text = redis.call('HGET', KEYS[1], path)
  local is_json, present = true, nil
  if text then is_json, present = pcall(cjson.decode, text) end
  if foreign or not is_json or (text and not is_claim(present)) then
    text = ''
  else
    if not present or dead[present[1]] then
      local above = math.max(present and present[2] or 0, set and set.epoch or 0)
      text = cjson.encode(ARGV[2])
      text = '[' .. text .. ',' .. string.format('%.0f', math.max(tonumber(ARGV[3]), above + 1)) .. ']'
      redis.call('HSET', KEYS[1], path, text)
    end
  end
  answer[#answer + 1] = text
end
return answer
"""
)

LINK = (
    _ALIAS
    + """
-- KEYS alias; ARGV schema, value
local present, foreign = alias(KEYS[1])
if foreign then return {'foreign', foreign} end
if not present or redis.call('GET', KEYS[1]) ~= ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[2])
  redis.call('PUBLISH', KEYS[1], '')
end
return {'stored'}
"""
)

UNLINK = (
    _ALIAS
    + """
-- KEYS alias; ARGV schema
local present, foreign = alias(KEYS[1])
if foreign then return {'foreign', foreign} end
if present then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', KEYS[1], '')
end
return {'stored'}
"""
)

BEAT = """
-- KEYS beats; ARGV publisher, value
local before = redis.call('HGETALL', KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return before
"""
