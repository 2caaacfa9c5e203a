"""The keys in Redis, and the commands on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from webhookd.store.redis_node import Command

# One command for a batch of events: 1 for each that nobody had.
_CLAIM = """
local got = {}
for i, key in ipairs(KEYS) do got[i] = redis.call('set', key, ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0 end
return got
"""
# Deletes a claim only if it is still ours: after its TTL another worker may hold it. `pcall`, since a key of another type would
# fail the whole command.
_RELEASE = "for _, key in ipairs(KEYS) do if redis.pcall('get', key) == ARGV[1] then redis.call('del', key) end end"

# One command for a batch of notifications: each key is set if it is not there, with the TTL that comes last.
_MARK = "for i, key in ipairs(KEYS) do redis.call('set', key, ARGV[i], 'NX', 'EX', ARGV[#ARGV]) end"


def key(instance: object, kind: str, *parts: object) -> str:
    """A key of one installation. The braces make its id the hash tag: in cluster mode, all its keys are in one slot."""
    return ":".join((f"webhookd:{{{instance}}}:{kind}", *map(str, parts)))


def look_up(keys: Sequence[str]) -> Command:
    """Reads each key's value."""
    return ("MGET", *keys)


def claim(keys: Sequence[str], token: str, ttl_ms: int) -> Command:
    """Sets each key to `token`, if it is not there; replies 1 or 0 for each."""
    return ("EVAL", _CLAIM, len(keys), *keys, token, ttl_ms)


def release(keys: Sequence[str], token: str) -> Command:
    """Deletes the keys that hold `token`."""
    return ("EVAL", _RELEASE, len(keys), *keys, token)


def mark(keys: Sequence[str], values: Sequence[Any], ttl: int) -> Command:
    """Sets each key to its value, if it is not there."""
    return ("EVAL", _MARK, len(keys), *keys, *values, ttl)


def proof(instance: object, token: str) -> list[Command]:
    """Each command of ours once, with several keys, which are gone afterwards: they work, or Redis is of no use.

    PING and reads alone would also work on a replica, a full server, one in cluster mode, and without the right to EVAL.
    """
    keys = [key(instance, kind, token, "probe") for kind in ("seen", "claim")]
    return [mark(keys, [token, token], 60), claim(keys, token, 60_000), look_up(keys), release(keys, token)]
