-- The ledger records which worker holds which chunk of a run, and which chunks are done. ARGV[1] of this script names the
-- command. Redis runs a script without interruption, so each command is atomic.
--
-- Keys of a run (all with the hash tag {run_id}; all expire `retention_s` after the last use):
--   KEYS[1] run       HASH    model, state (running|paused|done|cancelled), reason, samples, chunks, chunks_done,
--                             opened_ms, opened_by (a token), started_ms (first lease), changed_ms,
--                             abort_rate, abort_after (when to pause a run with too many failures), aborted
--   KEYS[2] states    STRING  one byte per sample by plan position: 0 unprocessed, 1 failed, 2 invalid, 3 ok
--   KEYS[3] counts    HASH    "<dataset>:<state>" -> samples of that dataset in that state (without state 0)
--   KEYS[4] chunks    STRING  one byte per chunk: 0 pending, 1 done (its part exists)
--   KEYS[5] leases    ZSET    chunk -> expiry in ms by the clock of Redis. A chunk that was given back also has an expiry:
--                             other workers can take it over after that time
--   KEYS[6] holders   HASH    chunk -> "token worker" of the last lease. The entry of an expired lease stays: a slow holder
--                             can renew the lease until another worker takes the chunk over
--   KEYS[7] progress  LIST    the last 128 commits, newest first: "ms samples tokens"
--   KEYS[8] offers    ZSET    chunk -> time of its next offer, in ms; it was offered to a worker that has not leased it yet
--   KEYS[9] strikes   HASH    chunk -> attributed or out-of-memory deaths while the chunk was in flight; deleted by its commit
--   KEYS[10] losses   HASH    chunk -> holders lost without a strike since its last journal entry; deleted by its commit
--   KEYS[11] journal  HASH    sample_id -> outcome, of one leased chunk; deleted by its commit
--   KEYS[12] trial    HASH    of one quarantined chunk; deleted by its commit. group -> ids of the samples that run now,
--                             separated by spaces, or "control"; died:<cause>:<group> -> holders lost while that group ran

local run, states, counts, chunks = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local leases, holders, progress, offers = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local strikes, losses, journal, trial = KEYS[9], KEYS[10], KEYS[11], KEYS[12]

-- A chunk is quarantined at its second strike: the first engine death gives a strike to all chunks in flight, and few of them
-- are in flight again at a second death. A chunk is also quarantined after QUARANTINE_LOSSES consecutive losses of its holders,
-- because a sample may end them without leaving a known cause.
local QUARANTINE_STRIKES, QUARANTINE_LOSSES = 2, 5

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function token_of(chunk)
  local holder = redis.call('HGET', holders, chunk)
  return holder and string.match(holder, '^%S+')
end

local function touch(retention_s)
  for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], retention_s) end
end

local function delete_lease(chunk)
  redis.call('ZREM', leases, chunk)
  redis.call('ZREM', offers, chunk)
  redis.call('HDEL', holders, chunk)
end

-- Record that the holder of a chunk ended because of `cause` (`DeathCause` in deaths.py). In quarantine the death counts
-- against the group that ran. A death during the control does not count, because the engine itself is at fault.
local function record_death(chunk, cause)
  local kept_ms = redis.call('PTTL', run)
  local group = redis.call('HGET', trial, 'group')
  redis.call('HDEL', trial, 'group')
  if group == 'control' then return end
  if group then
    redis.call('HINCRBY', trial, 'died:' .. cause .. ':' .. group, 1)
  elseif cause ~= 'kill' then
    redis.call('HINCRBY', strikes, chunk, 1)
  elseif redis.call('HINCRBY', losses, chunk, 1) >= QUARANTINE_LOSSES then
    redis.call('HSET', strikes, chunk, QUARANTINE_STRIKES)
    redis.call('HDEL', losses, chunk)
  end
  for _, key in ipairs({strikes, losses, trial}) do redis.call('PEXPIRE', key, kept_ms) end
end

-- fresh | struck | quarantined (`Standing` in records.py)
local function standing_of(chunk)
  local struck = tonumber(redis.call('HGET', strikes, chunk) or 0)
  return struck >= QUARANTINE_STRIKES and 'quarantined' or struck > 0 and 'struck' or 'fresh'
end

local function list_quarantined()
  local found, struck = {}, redis.call('HGETALL', strikes)
  for i = 1, #struck, 2 do
    if tonumber(struck[i + 1]) >= QUARANTINE_STRIKES then found[#found + 1] = struck[i] end
  end
  return found
end

-- Return whether the standing of a chunk allows this worker to lease it now. A worker runs at most one struck or quarantined
-- chunk at a time. In a run, at most one quarantined chunk is leased at a time.
local function may_lease(chunk, takes_struck, now)
  local standing = standing_of(chunk)
  if standing == 'fresh' then return true end
  if takes_struck ~= '1' then return false end
  if standing == 'quarantined' then
    for _, other in ipairs(list_quarantined()) do
      local expiry = redis.call('ZSCORE', leases, other)
      if other ~= chunk and expiry and tonumber(expiry) > now and redis.call('HEXISTS', holders, other) == 1 then return false end
    end
  end
  return true
end

-- Pause the run if too many of its samples with an outcome have failed.
local function apply_abort_if(failure)
  local rate, after = unpack(redis.call('HMGET', run, 'abort_rate', 'abort_after'))
  if not rate or redis.call('HGET', run, 'state') ~= 'running' then return end
  local ended, failed, counted = 0, 0, redis.call('HGETALL', counts)
  for i = 1, #counted, 2 do
    ended = ended + counted[i + 1]
    if string.match(counted[i], ':1$') then failed = failed + counted[i + 1] end
  end
  if ended < tonumber(after) or failed < rate * ended then return end
  local text = 'aborted: %d of %d samples failed (abort_if: failed_rate %s, after %s), most recently with %s'
  redis.call('HSET', run, 'state', 'paused', 'aborted', '1', 'reason', string.format(text, failed, ended, rate, after, failure))
end

local function leave_to_others(chunk, now)
  redis.call('ZREM', leases, chunk)
  redis.call('ZADD', offers, now, chunk)
  return 'apart'
end

local commands = {}

-- model samples chunks token retention_s -> 1 if this call opened the run, 0 if it was open before. Only the caller that opens
-- a run records which chunks are done. A repeated call with the same token returns 1 again: the first reply may have been lost.
function commands.open(model, samples, chunk_count, token, retention_s)
  if redis.call('EXISTS', run) == 1 then return redis.call('HGET', run, 'opened_by') == token and 1 or 0 end
  local now = now_ms()
  redis.call('DEL', states, counts, chunks, leases, holders, progress, offers, strikes, losses)
  redis.call('SETRANGE', states, tonumber(samples) - 1, '\0')
  redis.call('SETRANGE', chunks, tonumber(chunk_count) - 1, '\0')
  redis.call('HSET', run, 'model', model, 'state', 'running', 'samples', samples, 'chunks', chunk_count,
    'opened_ms', now, 'opened_by', token, 'changed_ms', now)
  touch(retention_s)
  return 1
end

-- chunks retention_s -> 1 if this call added chunks, 0 if the run has this many already. A done run that grows becomes running.
function commands.extend(chunk_count, retention_s)
  local known = redis.call('HGET', run, 'chunks')
  if not known or tonumber(chunk_count) <= tonumber(known) then return 0 end
  if redis.call('STRLEN', chunks) < tonumber(chunk_count) then
    redis.call('SETRANGE', chunks, tonumber(chunk_count) - 1, '\0')
  end
  redis.call('HSET', run, 'chunks', chunk_count, 'changed_ms', now_ms())
  local state, ended = unpack(redis.call('HMGET', run, 'state', 'chunks_done'))
  if state == 'done' and tonumber(ended) < tonumber(chunk_count) then
    redis.call('HSET', run, 'state', 'running', 'reason', '')
  end
  touch(retention_s)
  return 1
end

-- rate after ('' '' for no limit) -> 1, or 0 if the run is unknown
function commands.set_abort(rate, after)
  if redis.call('EXISTS', run) == 0 then return 0 end
  redis.call('HDEL', run, 'abort_rate', 'abort_after')
  if rate ~= '' then redis.call('HSET', run, 'abort_rate', rate, 'abort_after', after) end
  return 1
end

-- chunk token worker lease_ms retention_s takes_struck -> fresh | struck | quarantined (leased, with this standing) | unknown |
-- closed | done | held (by another token) | apart (not leased because of its standing, and offered to other workers
-- immediately). A repeated call with the same token gets the lease again: the first reply may have been lost.
function commands.acquire(chunk, token, worker, lease_ms, retention_s, takes_struck)
  local state = redis.call('HGET', run, 'state')
  local byte = redis.call('GETRANGE', chunks, chunk, chunk)
  if not state or byte == '' then return 'unknown' end
  redis.call('ZREM', offers, chunk)
  if byte == '\1' then return 'done' end
  if state ~= 'running' then return 'closed' end
  local now = now_ms()
  local expiry, holder = redis.call('ZSCORE', leases, chunk), token_of(chunk)
  if expiry and tonumber(expiry) > now and holder ~= token then return 'held' end
  if holder ~= token and not may_lease(chunk, takes_struck, now) then return leave_to_others(chunk, now) end
  if holder and holder ~= token then
    record_death(chunk, 'kill')
    if not may_lease(chunk, takes_struck, now) then  -- this loss has quarantined the chunk
      redis.call('HDEL', holders, chunk)
      return leave_to_others(chunk, now)
    end
  end
  redis.call('HSETNX', run, 'started_ms', now)
  redis.call('ZADD', leases, now + lease_ms, chunk)
  redis.call('HSET', holders, chunk, token .. ' ' .. worker)
  touch(retention_s)
  return standing_of(chunk)
end

-- lease_ms retention_s then chunk token, chunk token, ... -> for each 1 if renewed, 0 if lost
function commands.renew(lease_ms, retention_s, ...)
  local pairs_given, renewed, expiry = {...}, {}, now_ms() + lease_ms
  for i = 1, #pairs_given, 2 do
    local mine = token_of(pairs_given[i]) == pairs_given[i + 1]
    if mine then
      redis.call('ZADD', leases, expiry, pairs_given[i])
      redis.call('ZREM', offers, pairs_given[i])
    end
    renewed[#renewed + 1] = mine and 1 or 0
  end
  touch(retention_s)
  return renewed
end

-- chunk token retention_s then sample_id outcome, sample_id outcome, ... -> 1 if stored, 0 if the lease is lost
function commands.journal(chunk, token, retention_s, ...)
  if token_of(chunk) ~= token then return 0 end
  redis.call('HSET', journal, ...)
  redis.call('EXPIRE', journal, retention_s)
  redis.call('HDEL', losses, chunk)
  return 1
end

-- chunk token group retention_s -> 1 if the group is recorded as the running group, 0 if the lease is lost
function commands.begin_trial(chunk, token, group, retention_s)
  if token_of(chunk) ~= token then return 0 end
  redis.call('HSET', trial, 'group', group)
  redis.call('EXPIRE', trial, retention_s)
  return 1
end

-- chunk token group then the causes to delete -> 1 if the group's deaths are deleted, 0 if the lease is lost
function commands.forget_deaths(chunk, token, group, ...)
  if token_of(chunk) ~= token then return 0 end
  for _, cause in ipairs({...}) do redis.call('HDEL', trial, 'died:' .. cause .. ':' .. group) end
  return 1
end

-- -> the quarantined chunks
function commands.quarantined()
  return list_quarantined()
end

-- chunk positions (u64 each) states (u8 each) datasets (u16 each) tokens failure is_progress retention_s -> samples
-- raised, or -1 if the run or the chunk is unknown: Redis may have lost the command that extended the run. The chunk is
-- counted after the run is extended again. `failure` is the most frequent error code of the part.
-- A commit never lowers a state (it stores the maximum) and changes the counts by the difference, so repeated commits in any
-- order give the same result.
function commands.commit(chunk, positions, new_states, datasets, tokens, failure, is_progress, retention_s)
  local byte = redis.call('GETRANGE', chunks, chunk, chunk)
  if redis.call('EXISTS', run) == 0 or byte == '' then return -1 end
  local moves, raised, was_pending = {}, 0, byte ~= '\1'
  for i = 1, #new_states do
    local position = struct.unpack('<I8', positions, 8 * i - 7)
    local old = string.byte(redis.call('GETRANGE', states, position, position))
    local new = string.byte(new_states, i)
    if new > old then
      local dataset = struct.unpack('<I2', datasets, 2 * i - 1)
      redis.call('SETRANGE', states, position, string.char(new))
      moves[dataset .. ':' .. new] = (moves[dataset .. ':' .. new] or 0) + 1
      if old > 0 then moves[dataset .. ':' .. old] = (moves[dataset .. ':' .. old] or 0) - 1 end
      raised = raised + 1
    end
  end
  for field, difference in pairs(moves) do redis.call('HINCRBY', counts, field, difference) end
  delete_lease(chunk)
  redis.call('DEL', journal, trial)
  redis.call('HDEL', strikes, chunk)
  redis.call('HDEL', losses, chunk)
  redis.call('SETRANGE', chunks, chunk, '\1')
  local now = now_ms()
  if was_pending and is_progress == '1' then
    redis.call('LPUSH', progress, now .. ' ' .. #new_states .. ' ' .. tokens)
    redis.call('LTRIM', progress, 0, 127)
  end
  redis.call('HSET', run, 'changed_ms', now)
  if was_pending and redis.call('HINCRBY', run, 'chunks_done', 1) >= tonumber(redis.call('HGET', run, 'chunks')) then
    redis.call('HSET', run, 'state', 'done', 'reason', '')
  end
  apply_abort_if(failure)
  touch(retention_s)
  return raised
end

-- chunk token cause ('' if its holder did not die) delay_ms -> 1 if given back, 0 if this token does not hold it. Other
-- workers can take the chunk over after the delay.
function commands.release(chunk, token, cause, delay_ms)
  if token_of(chunk) ~= token then return 0 end
  if cause ~= '' then record_death(chunk, cause) else redis.call('HDEL', trial, 'group') end
  redis.call('HDEL', holders, chunk)
  redis.call('ZADD', leases, now_ms() + delay_ms, chunk)
  return 1
end

-- state reason -> 1 if set, 0 if the run is unknown or done, or if a worker pauses a run that a user cancelled.
-- A user who resumes an aborted run accepts its failures, so the run is not aborted again.
function commands.set_state(state, reason)
  local old = redis.call('HGET', run, 'state')
  if not old or old == 'done' or (old == 'cancelled' and state == 'paused') then return 0 end
  if state == 'running' and redis.call('HDEL', run, 'aborted') == 1 then
    redis.call('HDEL', run, 'abort_rate', 'abort_after')
  end
  redis.call('HSET', run, 'state', state, 'reason', reason, 'changed_ms', now_ms())
  return 1
end

-- limit again_ms with_expired takes_struck -> chunks to take over: chunks that were given back and, if with_expired is 1, chunks
-- whose holder did not renew its lease. If takes_struck is 1, at most one of them is struck or quarantined; else all are fresh.
-- Each chunk is returned once, and again after `again_ms` if no worker has tried to lease it: the worker that received it may
-- have died.
function commands.expire(limit, again_ms, with_expired, takes_struck)
  local now, expired = now_ms(), {}
  for _, set in ipairs({leases, offers}) do
    for _, chunk in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, 4096)) do
      if #expired >= tonumber(limit) then return expired end
      local has_holder = redis.call('HEXISTS', holders, chunk) == 1
      if (with_expired == '1' or not has_holder) and may_lease(chunk, takes_struck, now) then
        if standing_of(chunk) ~= 'fresh' then takes_struck = '0' end
        redis.call('ZREM', leases, chunk)
        redis.call('ZADD', offers, now + again_ms, chunk)
        expired[#expired + 1] = chunk
      end
    end
  end
  return expired
end

-- chunk -> nil. The worker that received this chunk from `expire` does not run it. Offer it again, unless it is leased.
function commands.offer(chunk)
  redis.call('ZADD', offers, 'XX', now_ms(), chunk)
end

-- start limit -> chunks from `start` on that are neither done nor leased, at most `limit`
function commands.pending(start, limit)
  local found, window, now = {}, 65536, now_ms()
  local size = redis.call('STRLEN', chunks)
  for from = tonumber(start), size - 1, window do
    local bytes = redis.call('GETRANGE', chunks, from, from + window - 1)
    local at = string.find(bytes, '\0', 1, true)
    while at do
      local chunk = from + at - 1
      local expiry = redis.call('ZSCORE', leases, chunk)
      if not expiry or tonumber(expiry) <= now then
        found[#found + 1] = chunk
        if #found >= tonumber(limit) then return found end
      end
      at = string.find(bytes, '\0', at + 1, true)
    end
  end
  return found
end

local done, answer = pcall(commands[ARGV[1]], unpack(ARGV, 2))
if done then return answer end
-- Redis wraps the error of a command in its own text, and does not give a missing permission a code. For an error that may end
-- later, put its code first, as Redis does outside a script. The client recognizes the error by its code.
local message = type(answer) == 'table' and answer.err or tostring(answer)
for _, text in ipairs({'OOM ', 'READONLY ', 'MISCONF ', 'NOREPLICAS ', 'NOPERM '}) do
  local from = string.find(message, text, 1, true)
  if from then return redis.error_reply(string.sub(message, from)) end
end
for _, text in ipairs({"The user executing the script can't ", 'ACL failure in script: '}) do
  local from = string.find(message, text, 1, true)
  if from then return redis.error_reply('NOPERM ' .. string.sub(message, from)) end
end
error(answer)
