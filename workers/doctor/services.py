"""The checks of Redis and the store: whether they are reachable, secured, and configured for durability."""

import ipaddress
import statistics
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from common.errors import FleetError
from common.ledger.connection import connect_redis, reaching_redis
from common.ledger.ledger import Ledger
from common.settings import Settings
from common.storage.store import StoreClosed, open_store
from workers.doctor.finding import GIB, Finding, report_fault

_ANSWER_S = 2.0
_PINGS = 5
_SLOW_PING_S = 0.05
_CLOCK_OFF_S = 5.0
_NEARLY_FULL = 0.9
_OLDEST_VERSION = (6, 2)


def check_redis(settings: Settings) -> list[Finding]:
    """Check whether Redis answers, who can access it, whether it keeps the ledger, and how much its clock differs."""
    url = settings.redis_url.get_secret_value()
    # A separate client, because the ledger's client waits while Redis restarts.
    client = redis.Redis.from_url(url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 0))
    try:
        with client, reaching_redis(settings):
            latency_s = statistics.median(_time_ping(client) for _ in range(_PINGS))
            clock_off_s = _read_clock(client)
            info: Any = client.info()
    except FleetError as error:
        return [report_fault("redis", error)]
    except redis.RedisError as error:  # for example an ACL that forbids a command
        return [Finding("redis", "problem", f"refuses a command: {error}", "allow all commands for the user of FLEET_REDIS_URL")]
    return [
        _judge_answer(info, latency_s),
        judge_access(url),
        judge_memory(info),
        judge_durability(info),
        judge_clock(clock_off_s),
    ]


def check_store(settings: Settings) -> list[Finding]:
    """Check that the store can write an object, read it back, and refuse to create it a second time."""
    try:
        probe = open_store(settings.store_url, create=False, patience_s=_ANSWER_S).probe()
    except FleetError as error:
        folder = find_store_folder(settings)
        if folder and isinstance(error, StoreClosed) and not folder.exists() and not _has_runs(settings):
            return [Finding("store", "warning", f"{folder} does not exist yet", "the first `producer enqueue` creates it")]
        return [report_fault("store", error)]
    shared = "; the producer and every node must see the same folder" if find_store_folder(settings) else ""
    found = f"{probe.url}: an object was written, read and created only once in {probe.duration_s * 1000:.0f} ms{shared}"
    return [Finding("store", "ok", found)]


def _has_runs(settings: Settings) -> bool:
    """Return True if the ledger has a run, or if Redis cannot be read."""
    try:
        with reaching_redis(settings), connect_redis(settings, patience_s=0) as client:
            return Ledger(client, settings).has_runs()
    except (FleetError, redis.RedisError):
        return True


def find_store_folder(settings: Settings) -> Path | None:
    """Return the folder of a store on a local or shared disk, or ``None`` for object storage."""
    scheme, separator, rest = settings.store_url.partition("://")
    if separator and scheme.lower() != "file":
        return None
    return Path(rest if separator else settings.store_url).expanduser().absolute()


def judge_access(url: str) -> Finding:
    """Judge who can read the traffic of Redis or connect to it, from the URL alone."""
    address = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py has no types here
    has_tls, has_password = url.startswith("rediss://"), bool(address.get("password"))
    found = f"{'TLS' if has_tls else 'no TLS'}, {'a password' if has_password else 'no password'}"
    if _is_loopback(str(address.get("host", "localhost"))):
        return Finding("redis access", "ok", f"{found}, on this machine")
    if not has_password:
        return Finding(
            "redis access", "warning", found, "set requirepass or an ACL user: a client that can write to Redis controls the fleet"
        )
    advice = "" if has_tls else "use rediss:// unless the network is private"
    return Finding("redis access", "warning" if advice else "ok", found, advice)


def judge_memory(info: dict[str, Any]) -> Finding:
    """Judge whether Redis has free memory, and whether it would evict the ledger's keys. ``info`` is the reply to INFO."""
    used, limit, policy = int(info["used_memory"]), int(info.get("maxmemory", 0)), str(info.get("maxmemory_policy", "noeviction"))
    found = f"{used / GIB:.2f} GiB used of {f'{limit / GIB:.2f}' if limit else 'no limit'}, {policy}"
    if limit and policy != "noeviction":
        advice = "set maxmemory-policy noeviction: other policies evict leases and journals"
        return Finding("redis memory", "problem", found, advice)
    if limit and used > _NEARLY_FULL * limit:
        return Finding("redis memory", "warning", found, "raise maxmemory, or delete old runs: a full Redis blocks all workers")
    return Finding("redis memory", "ok", found)


def judge_durability(info: dict[str, Any]) -> Finding:
    """Judge whether Redis accepts writes and keeps them after a crash. ``info`` is the reply to INFO."""
    if info.get("role", "master") != "master":
        return Finding("redis durability", "problem", "it is a replica", "point FLEET_REDIS_URL at the primary")
    if not int(info.get("aof_enabled", 0)):
        advice = "set appendonly yes: otherwise a restart loses leases and counts; producer resume RUN --rebuild restores them"
        return Finding("redis durability", "warning", "no append-only file", advice)
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding("redis durability", "problem", "the append-only file cannot be written", "free space on the disk of Redis")
    return Finding("redis durability", "ok", "append-only file on")


def judge_clock(off_s: float) -> Finding:
    """Judge the difference between this machine's clock and the clock of Redis, which times all leases.

    ``off_s`` is in seconds, and positive if this machine's clock is ahead.
    """
    found = f"{abs(off_s):.2f} s {'ahead of' if off_s > 0 else 'behind'} the clock of Redis"
    if abs(off_s) <= _CLOCK_OFF_S:
        return Finding("clock", "ok", found)
    return Finding(
        "clock", "warning", found, "run an NTP client: the difference affects times in results and S3 signatures, not leases"
    )


def _judge_answer(info: dict[str, Any], latency_s: float) -> Finding:
    version = str(info.get("redis_version", "0"))
    found = f"version {version} answers in {latency_s * 1000:.1f} ms"
    if tuple(map(int, version.split(".")[:2])) < _OLDEST_VERSION:
        return Finding("redis", "warning", found, "this version is not tested; use 6.2 or newer")
    if latency_s > _SLOW_PING_S:
        return Finding("redis", "warning", found, "every chunk needs several round trips; run Redis closer to the workers")
    return Finding("redis", "ok", found)


def _time_ping(client: redis.Redis) -> float:
    started_at = time.perf_counter()
    client.ping()
    return time.perf_counter() - started_at


def _read_clock(client: redis.Redis) -> float:
    """Return how many seconds this machine's clock is ahead of the clock of Redis."""
    before = time.time()
    answer: Any = client.time()
    redis_time: float = answer[0] + answer[1] / 1e6
    return (before + time.time()) / 2 - redis_time


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
