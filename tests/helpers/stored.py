"""Events that a test writes into the tables itself, without a receiver or a worker."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import asyncpg

from webhookd.store.keys import kind_id, notification_key
from webhookd.store.outbox import Leased, Outbox

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# `notification_key` in SQL; format it with SQL columns or constants.
KEY = (
    "(left(encode(sha256(convert_to({notification_id}, 'UTF8')), 'hex'), 16) || "
    "left(encode(sha256(convert_to({account} || chr(31) || {notification_id}, 'UTF8')), 'hex'), 16))::uuid"
)
# `kind_id` in SQL, formatted likewise. An event without an entity has the name ''.
KIND = (
    "('x' || left(encode(sha256(convert_to("
    "concat_ws(chr(31), {account}, {event_type}, {entity_name}, {key_fingerprint}), 'UTF8')), 'hex'), 16))::bit(64)::bigint"
)

_LEDGER = (
    *("id", "notification_key", "content_key", "body_hash", "received_at", "event_date", "kind", "notification_id"),
    *("entity_id", "invoice_number", "merchant_reference"),
)
_WORK = (
    *("event_id", "consumer", "status", "due", "since", "attempts", "fresh", "redriven_at", "copy_sent_at", "discarded_at"),
    *("last_error", "dead_reason"),
)
_END = ("event_id", "at", "from_status", "to_status", "actor", "attempt")


async def store(connection: Connection, events: Iterable[Mapping[str, Any]]) -> None:
    """Stores events, each given by columns of the view `events`.

    Each needs `id`, `account`, `notification_id`, `event_type`, `status` and `received_at`; if it ended, `finished_at`, too.
    If it waits, it is due at `retry_at`, or at `send_after`, or from its receipt on. A dead event with `discarded_at` has been
    discarded.
    """
    ledger, work, ends = [], [], []
    kinds: dict[tuple[str, str, str | None, str], int] = {}
    for event in events:
        kind = (event["account"], event["event_type"], event.get("entity_name"), event.get("key_fingerprint", ""))
        if kind not in kinds:
            kinds[kind] = await store_kind(connection, *kind)
        ledger.append(_of(event, _LEDGER, notification_key=_key(event), body_hash=uuid.UUID(int=0), kind=kinds[kind]))
        waits_since = event.get("redriven_at") or event["received_at"]
        attempts = event.get("attempts", 0)
        if event["status"] == "processed":
            ends.append((event["id"], event["finished_at"], "queued", "processed", "worker", attempts))
            continue
        dead = event["status"] == "dead"
        state = {
            "event_id": event["id"],
            "consumer": "handlers",
            "status": "discarded" if event.get("discarded_at") else str(event["status"]),
            "due": event["finished_at"] if dead else event.get("retry_at") or event.get("send_after") or event["received_at"],
            "since": waits_since,
            "attempts": attempts,
            "fresh": event["status"] != "retrying" and not attempts and event.get("redriven_at") is None,
            "copy_sent_at": event.get("dead_letter_sent_at"),
        }
        work.append(_of({**event, **state}, _WORK))
    await connection.copy_records_to_table("ledger", records=ledger, columns=_LEDGER)
    await connection.copy_records_to_table("work", records=work, columns=_WORK)
    await connection.copy_records_to_table("audit", records=ends, columns=_END)


async def store_kind(
    connection: Connection,
    account: str = "default",
    event_type: str = "t",
    entity_name: str | None = None,
    key_fingerprint: str = "",
) -> int:
    """Stores a kind of event, unless it exists; returns its id."""
    id_ = kind_id("\x1f".join((account, event_type, entity_name or "", key_fingerprint)))
    row = (id_, account, event_type, entity_name, key_fingerprint)
    await connection.execute("INSERT INTO kinds VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING", *row)
    return id_


async def store_alias(connection: Connection, event_id: uuid.UUID, account: str, notification_id: str) -> None:
    """Stores another notification id of an event."""
    await connection.execute(
        "INSERT INTO notification_aliases (notification_key, event_id, body_hash, account, notification_id) "
        "VALUES ($1, $2, $3, $4, $5)",
        *(notification_key(account, notification_id), event_id, uuid.UUID(int=0), account, notification_id),
    )


async def lease(
    outbox: Outbox, *, fresh: int = 0, rest: int = 0, later: int = 0, lost: int = 0, seconds: float = 30.0
) -> Leased:
    """Leases due work as a sweeper does, with a RESEND_AFTER of one minute."""
    return await outbox.lease(
        fresh=fresh, rest=rest, later=later, lost=lost, lease=seconds, resend_after=60.0, longest_wait=3600.0
    )


async def end_well(connection: Connection, ids: Iterable[uuid.UUID]) -> None:
    """Marks waiting events as processed now."""
    await connection.execute(
        """
        WITH ended AS (
            DELETE FROM work WHERE event_id = ANY($1) RETURNING event_id, status, attempts
        )
        INSERT INTO audit (event_id, from_status, to_status, actor, attempt)
        SELECT event_id, status, 'processed', 'worker', attempts + 1 FROM ended
        """,
        list(ids),
    )


def _key(event: Mapping[str, Any]) -> uuid.UUID:
    return uuid.UUID(notification_key(event["account"], event["notification_id"]))


def _of(event: Mapping[str, Any], columns: Iterable[str], **defaults: Any) -> tuple[Any, ...]:
    return tuple(event.get(column, defaults.get(column)) for column in columns)
