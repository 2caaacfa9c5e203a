"""The keys in Redis, and the commands on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from webhookd.store.redis_node import Command

# One command for a batch of events. Replies 1 for each event that nobody had claimed, else 0.
_CLAIM = """
local got = {}
for i, key in ipairs(KEYS) do got[i] = redis.call('set', key, ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0 end
return got
"""
# Deletes a claim only if it is still ours: after its TTL another worker may hold it. `pcall`, since a key of another type would
# make the whole command fail.
_RELEASE = "for _, key in ipairs(KEYS) do if redis.pcall('get', key) == ARGV[1] then redis.call('del', key) end end"

# One command for a batch of notifications. Sets each key that does not exist, with the TTL, which is the last argument.
_MARK = "for i, key in ipairs(KEYS) do redis.call('set', key, ARGV[i], 'NX', 'EX', ARGV[#ARGV]) end"

# Sets a key that does not exist, and lets the key expire from now on. Replies its value.
_KEEP = """
local value = redis.call('get', KEYS[1]) or ARGV[1]
redis.call('set', KEYS[1], value, 'PX', ARGV[2])
return value
"""


def key(instance: object, kind: str, *parts: object) -> str:
    """Returns a key of one installation. The id in braces is the hash tag: in cluster mode, all its keys are in one slot."""
    return ":".join((f"webhookd:{{{instance}}}:{kind}", *map(str, parts)))


def look_up(keys: Sequence[str]) -> Command:
    """Returns the command that reads each key's value."""
    return ("MGET", *keys)


def claim(keys: Sequence[str], token: str, ttl_ms: int) -> Command:
    """Returns the command that sets each key to `token`, if the key does not exist, and replies 1 or 0 for each."""
    return ("EVAL", _CLAIM, len(keys), *keys, token, ttl_ms)


def release(keys: Sequence[str], token: str) -> Command:
    """Returns the command that deletes the keys that hold `token`."""
    return ("EVAL", _RELEASE, len(keys), *keys, token)


def mark(keys: Sequence[str], values: Sequence[Any], ttl: int) -> Command:
    """Returns the command that sets each key to its value, if the key does not exist. `ttl`: seconds."""
    return ("EVAL", _MARK, len(keys), *keys, *values, ttl)


def keep(key: str, value: str, ttl_ms: int) -> Command:
    """Returns the command that sets a key to `value`, if it does not exist, sets its TTL, and replies its value."""
    return ("EVAL", _KEEP, 1, key, value, ttl_ms)


def place(url: str, schema: str) -> str:
    """Returns a short name of a database that is known while the database is away: a hash of its hosts, name and schema."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    where = [parts.netloc.rpartition("@")[2], parts.path, *(query.get(one, []) for one in ("host", "port", "dbname")), schema]
    return hashlib.sha256(repr(where).encode()).hexdigest()[:16]


def proof(instance: object, token: str) -> list[Command]:
    """Returns each of our commands once, with several keys, which are gone afterwards. All must work, or Redis is of no use.

    PING and reads alone would also work on a replica, on a full server, in cluster mode, and without the right to EVAL.
    """
    keys = [key(instance, kind, token, "probe") for kind in ("seen", "claim")]
    return [mark(keys, [token, token], 60), claim(keys, token, 60_000), look_up(keys), release(keys, token)]
