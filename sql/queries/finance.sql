-- name: settlement_of_transaction(account, id)^
-- Returns what the provider reported of a transaction; the sums of refunds are NULL if it is no charge.
SELECT
    s.kind, s.state, s.status, s.amount, s.settled_amount, s.batch_id, s.settled_at, s.ref_transaction_id, s.account_type, s.invoice_number,
    s.subscription_id, s.payment_number, s.submitted_at, s.seen_at, p.returned_items, r.refunds, r.refunded_amount, r.pending_refunds,
    r.pending_refund_amount, r.failed_refunds, r.returned_amount, r.left_amount
FROM webhookd.settlements s
JOIN webhookd.provider_transactions p ON p.account = s.account AND p.transaction_id = s.transaction_id
LEFT JOIN webhookd.sales r ON r.account = s.account AND r.transaction_id = s.transaction_id
WHERE s.account = :account AND s.transaction_id = :id;

-- name: refunds_of_sale(account, id, limit)
-- Returns the newest refunds of a sale, in the order of their times.
SELECT transaction_id, state, amount, settled_at, submitted_at FROM (
    SELECT transaction_id, state, amount, settled_at, submitted_at FROM webhookd.settlements
    WHERE account = :account AND ref_transaction_id = :id AND kind = 'refund'
    ORDER BY submitted_at DESC NULLS LAST, transaction_id DESC
    LIMIT :limit
) AS newest
ORDER BY submitted_at NULLS FIRST, transaction_id;

-- name: subscription_at_provider(account, id)^
-- Returns a subscription as the provider lists it.
SELECT status, amount, past_occurrences, total_occurrences, card_expires, interval_length, interval_unit, starts_on, seen_at, detailed_at
FROM webhookd.provider_subscriptions
WHERE account = :account AND subscription_id = :id;

-- name: renewals_of_subscription(account, id, limit)
-- Returns the newest payments of a subscription, in the order of their numbers.
SELECT * FROM (
    SELECT
        payment_number, state, transaction_id, settled_amount, settled_at, attempts, last_failure, first_attempt_at, last_attempt_at
    FROM webhookd.renewals
    WHERE account = :account AND subscription_id = :id
    ORDER BY payment_number DESC NULLS LAST
    LIMIT :limit
) AS newest
ORDER BY payment_number NULLS FIRST;

-- name: missed_renewals_of_subscription(account, id, limit)
-- Returns the newest missed renewals of a subscription.
SELECT subscription_id, expected_on, amount, status, noted_at, came_at
FROM webhookd.missed_renewals
WHERE account = :account AND subscription_id = :id
ORDER BY expected_on DESC
LIMIT :limit;

-- name: missed_renewals(account, limit)
-- Returns the newest renewals of an account that were missed and did not come since.
SELECT subscription_id, expected_on, amount, status, noted_at, came_at
FROM webhookd.missed_renewals
WHERE account = :account AND came_at IS NULL
ORDER BY expected_on DESC, subscription_id
LIMIT :limit;
