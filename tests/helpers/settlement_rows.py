"""Rows of a settlement, as the sweeps of the role `sync` write them."""

from __future__ import annotations

from tests.helpers.database import Connection

_ROWS = """
INSERT INTO webhookd.provider_transactions (
    account, transaction_id, status, state, seen_at, amount, batch_id, settled_at, submitted_at, type, ref_transaction_id,
    detailed, returned_items, subscription_id, payment_number
) VALUES
    ('default', $1, 'settledSuccessfully', 'settled', now(), 139.90, '3990061', now() - interval '1 day',
        now() - interval '2 days', 'authCaptureTransaction', NULL, true, NULL, $2, 3),
    ('default', '70001', 'refundSettledSuccessfully', 'refund settled', now(), 30, '3990062', now() - interval '1 hour',
        now() - interval '20 hours', 'refundTransaction', $1, true, NULL, NULL, NULL),
    ('default', '70002', 'refundPendingSettlement', 'refund pending', now(), 9.9, NULL, NULL, now() - interval '2 hours',
        'refundTransaction', $1, true, NULL, NULL, NULL),
    ('default', '70003', 'settledSuccessfully', 'returned', now(), 20, '3990063', now() - interval '5 days',
        now() - interval '6 days', 'authCaptureTransaction', NULL, true,
        '[["70004", "2026-11-20T10:00:00+00:00", "R01"]]', NULL, NULL)
"""
_SUBSCRIPTION = """
INSERT INTO webhookd.provider_subscriptions (
    account, subscription_id, status, status_since, created_at, amount, past_occurrences, total_occurrences, card_expires,
    interval_length, interval_unit, starts_on, seen_at
) VALUES (
    'default', $1, 'active', now(), now() - interval '90 days', 139.9, 3, 9999, '2026-11', 1, 'months', '2026-08-31', now()
)
"""
_ATTEMPTS = """
INSERT INTO webhookd.provider_attempts (account, subscription_id, key, payment_number, attempt_number, submitted_at, response)
VALUES ('default', $1, '4.1', 4, 1, now(), 'The credit card has expired.')
"""
_MISSED = """
INSERT INTO webhookd.provider_missed_renewals (account, subscription_id, expected_on, amount, came_at)
VALUES ('default', $1, '2026-10-31', 139.9, NULL), ('default', $1, '2026-09-30', 139.9, now())
"""


async def store_settlement(connection: Connection, sale: str, subscription: str) -> None:
    """Stores a sale with two refunds, a returned eCheck, and the payments of a subscription."""
    await connection.execute(_ROWS, sale, subscription)
    for statement in (_SUBSCRIPTION, _ATTEMPTS, _MISSED):
        await connection.execute(statement, subscription)
