"""Rows of the provider's side, as the role `sync` keeps them, for what people see of it."""

from __future__ import annotations

from typing import Any

from tests.helpers.operator import Connection

DETAIL = "the webhook 72a55c78 is inactive, so Authorize.Net sends nothing: run `webhookd provider setup`, which pings it"
ACCOUNT = {
    "provider": "'api.authorize.net'",
    "holder": "gen_random_uuid()",
    "held_until": "now() + interval '1 hour'",
    "credentials": "'good'",
    "credentials_since": "now() - interval '9 days'",
    "checked_at": "now()",
    "gateway_id": "'565697'",
    "merchant_name": "'Shop of the Test'",
    "compared_at": "now()",
    "webhook_id": "'72a55c78'",
    "webhook_state": "'ok'",
    "webhook_seen_at": "now()",
}
DAYS = {  # by age: the state, and listed, ours, recovered, missing, unreadable
    0: ("open", 2, 2, 0, 0, 0),
    1: ("whole", 4812, 4812, 3, 0, 0),
    2: ("missing", 20, 18, 0, 2, 0),
    3: ("not known", 20, 20, 0, 0, 0),
    4: ("unreadable", 20, 19, 0, 0, 1),
}


async def store_account(connection: Connection, account: str = "default", **columns: str) -> None:
    """Stores an account that is well. `columns`: SQL expressions for other values."""
    given = ACCOUNT | columns
    names, values = ", ".join(given), ", ".join(given.values())
    await connection.execute(f"INSERT INTO provider_accounts (account, {names}) VALUES ('{account}', {values})")


async def store_days(connection: Connection, account: str = "default", days: dict[int, tuple[Any, ...]] | None = None) -> None:
    """Stores days by their age."""
    for age, (state, *counts) in (DAYS if days is None else days).items():
        await connection.execute(
            """INSERT INTO provider_days (account, day, completeness, listed, ours, recovered, missing, unreadable)
               VALUES ($1, (now() AT TIME ZONE 'UTC')::date - $2::integer, $3, $4, $5, $6, $7, $8)""",
            account,
            age,
            state,
            *counts,
        )


async def store_tests(connection: Connection, account: str = "default", count: int = 1) -> None:
    """Stores notifications that were kept as tests."""
    await connection.execute(
        """INSERT INTO provider_tests (id, account, notification_id, event_type, webhook_id, key_fingerprint)
           SELECT gen_random_uuid(), $1, gen_random_uuid()::text,
                  'net.authorize.payment.authcapture.created', '72a55c78', '0123456789ab'
           FROM generate_series(1, $2)""",
        account,
        count,
    )


async def store_history(connection: Connection, account: str = "default") -> None:
    """Stores a failed and a good call, a change, a test, and an unreadable notification."""
    await connection.execute(
        """INSERT INTO provider_calls (id, account, at, name, seconds, error) VALUES
               (gen_random_uuid(), $1, now() - interval '1 minute', 'notifications', 0.2, NULL),
               (gen_random_uuid(), $1, now(), 'webhooks', 20, '<b>no answer</b> within 20 s')""",
        account,
    )
    await connection.execute(
        """INSERT INTO provider_changes (id, account, actor, change, webhook_id, detail)
           VALUES (gen_random_uuid(), $1, 'guardian', 'activate', '72a55c78', 'inactive → active')""",
        account,
    )
    await store_tests(connection, account)
    await connection.execute(
        """INSERT INTO provider_notifications (account, notification_id, status, reason, event_type, event_date) VALUES
               ($1, '1fb6d2a5-0000-4000-8000-000000000000', 'unreadable', 'the answer has no payload', NULL, now()),
               ($1, '2fb6d2a5-0000-4000-8000-000000000000', 'foreign', 'another webhook', NULL, now())""",
        account,
    )
