"""The script that gives slots and places in line, on Redis' clock."""

from __future__ import annotations

# KEYS: leases of all, held, streams among them, line, line of streams, caps, when Redis began.
# ARGV: caps of running, streams, line (-1: none), whether they are news, microseconds of a lease
# and of settling, channel, how many leave; their ids; then id, state and place of each that stays.
# States: 2 has a slot, 1 waits, 0 is new. Answer: state (-1: the line is full) and place of each.
SCRIPT = """
local leases, held, streams, line, stream_line, caps, began = unpack(KEYS)
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function text(number) return string.format('%.0f', number) end
local function is_stream(id) return string.find(id, '/stream/', 1, true) end
local function forget(id)
  redis.call('ZREM', leases, id)
  redis.call('SREM', held, id)
  redis.call('SREM', streams, id)
  redis.call('ZREM', line, id)
  redis.call('ZREM', stream_line, id)
end
local function give(id)
  redis.call('SADD', held, id)
  if is_stream(id) then redis.call('SADD', streams, id) end
  redis.call('ZREM', line, id)
  redis.call('ZREM', stream_line, id)
end
local function has_room(set, cap) return cap < 0 or redis.call('SCARD', set) < cap end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', text(now))) do forget(id) end
local leaving = tonumber(ARGV[8])
for at = 9, 8 + leaving do forget(ARGV[at]) end
if ARGV[4] == '1' then redis.call('HSET', caps, 'running', ARGV[1], 'streams', ARGV[2]) end
local running_cap = tonumber(redis.call('HGET', caps, 'running') or ARGV[1])
local stream_cap = tonumber(redis.call('HGET', caps, 'streams') or ARGV[2])

local present = {}
for at = 9 + leaving, #ARGV, 3 do
  local id, place = ARGV[at], tonumber(ARGV[at + 2])
  present[id] = true
  redis.call('ZADD', leases, text(now + tonumber(ARGV[5])), id)
  if ARGV[at + 1] == '2' then
    give(id)
  elseif redis.call('SISMEMBER', held, id) == 0 then
    if place == 0 then place = now + at end
    redis.call('ZADD', is_stream(id) and stream_line or line, 'NX', text(place), id)
  end
end

local since = tonumber(redis.call('GET', began) or now)
if since > now then since = now end  -- another server's clock
if since == now then redis.call('SET', began, text(now)) end
local settled = now >= since + tonumber(ARGV[6])
while settled and has_room(held, running_cap) do
  local first = redis.call('ZRANGE', line, 0, 0, 'WITHSCORES')
  if has_room(streams, stream_cap) then
    local stream = redis.call('ZRANGE', stream_line, 0, 0, 'WITHSCORES')
    if stream[1] and (not first[1] or tonumber(stream[2]) < tonumber(first[2])) then
      first = stream
    end
  end
  if not first[1] then break end
  give(first[1])
  if not present[first[1]] then
    redis.call('PUBLISH', ARGV[7] .. string.match(first[1], '^[^/]*'), first[1])
  end
end

local waiting = redis.call('ZCARD', line) + redis.call('ZCARD', stream_line)
local line_cap = tonumber(ARGV[3])
if not settled then  -- some of the slots will prove to be free
  line_cap = line_cap + math.max(0, running_cap - redis.call('SCARD', held))
end
local answer = {}
for at = #ARGV - 2, 9 + leaving, -3 do
  local id, state = ARGV[at], 2
  local place = redis.call('ZSCORE', line, id) or redis.call('ZSCORE', stream_line, id)
  if place then
    state = 1
    if ARGV[at + 1] == '0' and tonumber(ARGV[3]) >= 0 and waiting > line_cap then
      forget(id)
      waiting = waiting - 1
      state = -1
    end
  end
  table.insert(answer, state)
  table.insert(answer, place or '0')
end
for at = 1, 6 do redis.call('PEXPIRE', KEYS[at], math.floor(tonumber(ARGV[5]) / 1000) + 1000) end
return answer
"""
NEW, WAITING, HELD = 0, 1, 2
CHANNEL = "casola:slots:"


def keys_of(organization_id: str) -> list[str]:
    """The script's KEYS."""
    names = ("leases", "held", "streams", "line", "stream_line", "caps")
    return [*(f"{CHANNEL}{organization_id}:{name}" for name in names), f"{CHANNEL}began"]


def entry_id(process: str, job_id: str, *, stream: bool) -> str:
    """How a request is called in Redis."""
    return f"{process}/{'stream' if stream else 'whole'}/{job_id}"


def is_stream(entry: str) -> bool:
    """Whether the request of this id streams."""
    return "/stream/" in entry
