-- What a reconciliation of a settlement day reads. All statements of a day run in one snapshot.

-- name: settlement_frame(account, low, lowest)^
-- Returns how far the sweep of an account has come. `known`: the account has, or had, API credentials. `unread`: since `low`, a batch
-- settled, or will, whose list was not read yet: its transactions may be in no list that webhookd knows. `unread_before`: the same since
-- `lowest`, also if a list was not read to its end.
SELECT
    now() AS now, s.swept_from, s.batches_listed_at, s.unsettled_at, s.time_zone,
    EXISTS (SELECT FROM webhookd.provider_accounts a WHERE a.account = :account) AS known,
    EXISTS (
        SELECT FROM webhookd.provider_batches b
        WHERE b.account = :account AND b.looked_at IS NULL AND (b.settled_at IS NULL OR b.settled_at >= :low)
    ) AS unread,
    EXISTS (
        SELECT FROM webhookd.provider_batches b
        WHERE b.account = :account AND b.settled_at >= :lowest AND (b.looked_at IS NULL OR b.reasons <> '{}')
    ) AS unread_before
FROM (SELECT) AS one
LEFT JOIN webhookd.provider_sweeps s ON s.account = :account;

-- name: settled_batches(account, begins, ends)
-- Returns the batches of a day, and those without a settlement time that may settle on it: those that have a transaction from before the
-- end of the day, or none.
SELECT b.batch_id, b.settlement_state, b.settled_at, b.payment_method, b.totals, b.reasons, b.looked_at
FROM webhookd.provider_batches b
WHERE b.account = :account AND b.settled_at >= :begins AND b.settled_at < :ends
UNION ALL
SELECT b.batch_id, b.settlement_state, b.settled_at, b.payment_method, b.totals, b.reasons, b.looked_at
FROM webhookd.provider_batches b
WHERE b.account = :account AND b.settled_at IS NULL AND (
    NOT EXISTS (SELECT FROM webhookd.provider_transactions t WHERE t.account = :account AND t.batch_id = b.batch_id)
    OR EXISTS (
        SELECT FROM webhookd.provider_transactions t
        WHERE t.account = :account AND t.batch_id = b.batch_id AND (t.submitted_at < :ends OR t.submitted_at IS NULL)
    )
);

-- name: settled_rows(account, batches, every)
-- Returns the transactions of batches, each with webhookd's own row of it and the number of its events that are dead. Leaves out those that
-- surely agree, unless `every` is true. Each row, and at least one, has the number of these charges, their sum, the number of those that
-- moved no money, and the days of all that may agree, in UTC.
-- A transaction surely agrees if it is in one batch only, is no refund, no event of it is dead, and it is either a settled charge whose
-- amount and state are the same here, with an invoice number that no other settled charge has, or was declined or voided, and is not here
-- or has the same state here. `reconcile` finds nothing in such a row: a test compares both ways.
-- With 10,000 transactions a day, reading all of them into a report takes 20 µs each more.
WITH dead AS MATERIALIZED (
    -- An object, which finds an id at once: a join would compare each transaction with each dead event.
    SELECT coalesce(jsonb_object_agg(entity_id, events), '{}') AS by_id
    FROM (
        SELECT l.entity_id, count(*) AS events
        FROM (
            SELECT event_id FROM webhookd.work WHERE status = 'dead'
            UNION ALL
            SELECT event_id FROM webhookd.deliveries WHERE status = 'dead'
        ) d
        JOIN webhookd.ledger l ON l.id = d.event_id
        JOIN webhookd.kinds k ON k.id = l.kind
        WHERE k.account = :account AND k.entity_name = 'transaction' AND l.entity_id IS NOT NULL
        GROUP BY l.entity_id
    ) counted
), listed AS MATERIALIZED (
    SELECT
        transaction_id, amount, invoice_number, (submitted_at AT TIME ZONE 'UTC')::date AS day,
        CASE
            WHEN NOT :every AND listed_in = ARRAY[batch_id] AND submitted_at IS NOT NULL AND coalesce(type, '') NOT LIKE 'refund%'
                AND state IN ('settled', 'declined', 'voided') THEN state
        END AS plain_state
    FROM webhookd.provider_transactions
    WHERE account = :account AND batch_id = ANY(:batches::text[])
), captured AS MATERIALIZED (
    -- PostgreSQL 17 reads neighbouring keys of an array in one go. A look-up for each transaction takes 40 % more.
    -- Usually the newest fact has both values, and reading it by its place takes half the time.
    SELECT
        entity_id, coalesce(facts #>> '{0,2,captured_amount}', webhookd.value_of(facts, '$[*][2].captured_amount'))::numeric AS amount
    FROM webhookd.timeline
    WHERE entity_name = 'transaction' AND account = :account
        AND entity_id = ANY((SELECT array_agg(transaction_id) FROM listed WHERE plain_state = 'settled')::text[])
        AND coalesce(facts #>> '{0,2,state}', webhookd.value_of(facts, '$[*][2].state')) IN ('captured', 'settled')
), others AS MATERIALIZED (
    SELECT entity_id, coalesce(webhookd.value_of(facts, '$[*][2].state'), '') AS state
    FROM webhookd.timeline
    WHERE entity_name = 'transaction' AND account = :account
        AND entity_id = ANY((SELECT array_agg(transaction_id) FROM listed WHERE plain_state IN ('declined', 'voided'))::text[])
), twice AS MATERIALIZED (
    SELECT invoice_number
    FROM webhookd.provider_transactions
    WHERE account = :account AND state = 'settled'
        AND invoice_number = ANY((SELECT array_agg(invoice_number) FROM listed WHERE plain_state = 'settled')::text[])
    GROUP BY invoice_number
    HAVING count(*) > 1
), compared AS MATERIALIZED (
    SELECT
        (count(*) FILTER (WHERE agrees AND plain_state = 'settled'))::integer AS agreed,
        coalesce(sum(amount) FILTER (WHERE agrees AND plain_state = 'settled'), 0) AS agreed_amount,
        (count(*) FILTER (WHERE agrees AND plain_state <> 'settled'))::integer AS agreed_without_money,
        array_agg(transaction_id) FILTER (WHERE NOT agrees) AS differing
    FROM (
        -- Subselects, which PostgreSQL hashes: with statistics of a time before the batch, it would join by comparing each with each.
        -- OFFSET 0, so that PostgreSQL compares each row once.
        SELECT
            transaction_id, amount, plain_state,
            NOT (SELECT by_id FROM dead) ? transaction_id AND coalesce(
                CASE plain_state
                    WHEN 'settled' THEN
                        (transaction_id, amount) IN (SELECT entity_id, amount FROM captured)
                        AND (invoice_number IS NULL OR invoice_number NOT IN (SELECT invoice_number FROM twice))
                    WHEN 'declined' THEN transaction_id NOT IN (SELECT entity_id FROM others WHERE state <> 'declined')
                    WHEN 'voided' THEN transaction_id NOT IN (SELECT entity_id FROM others WHERE state <> 'voided')
                END,
                false
            ) AS agrees
        FROM listed OFFSET 0
    ) judged
)
SELECT
    c.agreed, c.agreed_amount, c.agreed_without_money,
    (SELECT coalesce(array_agg(day), '{}') FROM (SELECT DISTINCT day FROM listed WHERE plain_state IS NOT NULL) d) AS plain_days,
    t.*, webhookd.value_of(w.facts, '$[*][2].state') AS our_state,
    coalesce(
        webhookd.value_of(w.facts, '$[*][2].captured_amount'), webhookd.value_of(w.facts, '$[*][2].refunded_amount'),
        webhookd.value_of(w.facts, '$[*][2].requested_amount')
    )::numeric AS our_amount,
    w.entity_id IS NOT NULL AS is_ours,
    coalesce(((SELECT by_id FROM dead) -> f.transaction_id)::integer, 0) AS our_dead
FROM compared c
LEFT JOIN LATERAL unnest(c.differing) AS f (transaction_id) ON true
-- OFFSET 0 keeps the look-ups by key: of a day, few rows are left, and the planner, which expects half of them, would read whole tables.
LEFT JOIN LATERAL (
    SELECT * FROM webhookd.provider_transactions WHERE account = :account AND transaction_id = f.transaction_id OFFSET 0
) t ON true
LEFT JOIN LATERAL (
    SELECT entity_id, facts FROM webhookd.timeline
    WHERE entity_name = 'transaction' AND account = :account AND entity_id = f.transaction_id OFFSET 0
) w ON true;

-- name: unlisted_transactions(account, low, high, since)
-- Returns webhookd's rows of the transactions that moved money, that no list of the provider has: those of the payments' events received
-- in a span of time, if none of these is older than `since`.
WITH events AS MATERIALIZED (
    SELECT l.entity_id
    FROM webhookd.ledger l
    WHERE l.id >= webhookd.first_id(:low) AND l.id < webhookd.first_id(:high) AND coalesce(l.event_date, l.received_at) >= :since
        AND l.kind = ANY((
            SELECT coalesce(array_agg(id), '{}') FROM webhookd.kinds
            WHERE account = :account AND entity_name = 'transaction' AND event_type LIKE 'net.authorize.payment.%'
        )::bigint[])
        AND l.entity_id IS NOT NULL
), listed AS MATERIALIZED (
    -- An array's keys are read in one go, as in settled_rows.
    SELECT transaction_id
    FROM webhookd.provider_transactions
    WHERE account = :account AND transaction_id = ANY((SELECT array_agg(entity_id) FROM events)::text[])
)
SELECT
    entity_id AS transaction_id, webhookd.value_of(facts, '$[*][2].state') AS our_state,
    coalesce(
        webhookd.value_of(facts, '$[*][2].captured_amount'), webhookd.value_of(facts, '$[*][2].refunded_amount')
    )::numeric AS our_amount
FROM webhookd.timeline
WHERE entity_name = 'transaction' AND account = :account
    AND entity_id = ANY((
        SELECT array_agg(entity_id) FROM events WHERE entity_id NOT IN (SELECT transaction_id FROM listed)
    )::text[])
    AND webhookd.value_of(facts, '$[*][2].state') IN ('captured', 'refunded');

-- name: unsettled_transactions(account, low, high, oldest)
-- Returns the transactions that events captured or refunded in a span of time, and that are in no batch. `oldest`: before it, none of them
-- was submitted. The index has only what is in no batch, so a day with 10,000 settled transactions has a few rows in it.
SELECT t.transaction_id, t.state, webhookd.value_of(w.facts, '$[*][2].state') AS our_state
FROM webhookd.provider_transactions t
CROSS JOIN LATERAL (
    SELECT facts FROM webhookd.timeline
    WHERE entity_name = 'transaction' AND account = :account AND entity_id = t.transaction_id OFFSET 0
) w
WHERE t.account = :account AND t.batch_id IS NULL AND t.submitted_at >= :oldest AND t.submitted_at < :high
    AND t.state NOT IN ('settled', 'refund settled', 'returned', 'settlement failed') -- their batch is only not read yet
    -- First the state, by its place if it is there, as in settled_rows: most of these rows are only authorized here.
    AND coalesce(w.facts #>> '{0,2,state}', webhookd.value_of(w.facts, '$[*][2].state')) IN ('captured', 'refunded')
    AND webhookd.instant(coalesce(
        webhookd.value_of(w.facts, '$[*][2].refunded_at'), webhookd.value_of(w.facts, '$[*][2].captured_at')
    )) <@ tstzrange(:low, :high);

-- name: batches_by_id(account, batches)
-- Returns batches by their ids.
SELECT batch_id, settlement_state, settled_at, payment_method, totals, reasons, looked_at
FROM webhookd.provider_batches
WHERE account = :account AND batch_id = ANY(:batches::text[]);

-- name: whole_days(account, days)
-- Returns those of the days, in UTC, for which the history of notifications is whole.
SELECT day FROM webhookd.provider_days WHERE account = :account AND completeness = 'whole' AND day = ANY(:days::date[]);

-- name: captures_of_invoices(account, invoices, subscriptions, payments)
-- Returns the settled charges that have the invoices of given ones, each once. Renewals share their subscription's invoice: beside a renewal,
-- only the same payment and what is no renewal are returned.
SELECT DISTINCT t.invoice_number, t.transaction_id, t.amount, t.submitted_at, t.subscription_id, t.payment_number
FROM unnest(:invoices::text[], :subscriptions::text[], :payments::bigint[]) AS d (invoice_number, subscription_id, payment_number)
JOIN webhookd.provider_transactions t ON t.account = :account AND t.invoice_number = d.invoice_number
WHERE t.state = 'settled' AND coalesce(t.type, '') NOT LIKE 'refund%' AND (
    t.subscription_id IS NULL OR d.subscription_id IS NULL
    OR (t.subscription_id = d.subscription_id AND t.payment_number = d.payment_number)
);

-- name: sales_of(account, transaction_ids)
-- Returns those of the transactions that the provider or webhookd knows as a sale.
SELECT transaction_id
FROM webhookd.provider_transactions
WHERE account = :account AND transaction_id = ANY(:transaction_ids::text[])
    AND state NOT LIKE 'refund%' AND coalesce(type, '') NOT LIKE 'refund%'
UNION
SELECT entity_id
FROM webhookd.timeline
WHERE entity_name = 'transaction' AND account = :account AND entity_id = ANY(:transaction_ids::text[])
    AND coalesce(webhookd.value_of(facts, '$[*][2].kind'), 'charge') = 'charge';

-- name: told_losses(account, transaction_ids, event_types)
-- Returns the transactions about which there are events of these types. With coalesce(), the join stays a left join, as in events_of_entity.
SELECT DISTINCT l.entity_id AS transaction_id, k.event_type
FROM webhookd.ledger l LEFT JOIN webhookd.kinds k ON k.id = l.kind
WHERE l.entity_id = ANY(:transaction_ids::text[]) AND coalesce(k.account, '') = :account AND coalesce(k.entity_name, '') = 'transaction'
    AND coalesce(k.event_type, '') = ANY(:event_types::text[]);

-- name: listed_transactions(account, transaction_ids)
-- Returns those of the transactions that a list of the provider has.
SELECT transaction_id
FROM webhookd.provider_transactions
WHERE account = :account AND transaction_id = ANY(:transaction_ids::text[]);

-- name: swept_from(account)$
-- Returns the time from which on the batches of an account are looked at. NULL: nobody has swept the account.
SELECT swept_from FROM webhookd.provider_sweeps WHERE account = :account;

-- name: record_reconciled_days(account, days, results, differences, reasons, as_of)!
-- Records the outcome of days.
INSERT INTO webhookd.reconciled_days AS d (account, day, result, differences, reasons, as_of)
SELECT :account, r.*
FROM unnest(:days::date[], :results::text[], :differences::integer[], :reasons::integer[], :as_of::timestamptz[])
    AS r (day, result, differences, reasons, as_of)
ORDER BY r.day
ON CONFLICT (account, day) DO UPDATE SET
    result = excluded.result, differences = excluded.differences, reasons = excluded.reasons, as_of = excluded.as_of,
    since = CASE WHEN d.result = excluded.result THEN d.since ELSE excluded.since END;

-- name: remove_reconciled_days(account, before)!
-- Removes the outcomes of days before a day.
DELETE FROM webhookd.reconciled_days
WHERE account = :account AND day IN (
    SELECT day FROM webhookd.reconciled_days WHERE account = :account AND day < :before ORDER BY day FOR UPDATE
);

-- name: subscription_frame(account)^
-- Returns when the subscriptions of an account were last listed to the end. `ours`: an event has named a subscription.
SELECT
    now() AS now, s.subscriptions_at,
    EXISTS (SELECT FROM webhookd.provider_accounts a WHERE a.account = :account) AS known,
    EXISTS (SELECT FROM webhookd.timeline t WHERE t.entity_name = 'subscription' AND t.account = :account) AS ours
FROM (SELECT) AS one
LEFT JOIN webhookd.provider_sweeps s ON s.account = :account;

-- name: subscription_differences(account)
-- Returns the subscriptions that differ between the provider's lists and webhookd's events, and the renewals of the last 14 days that did
-- not come. Not judged: subscriptions from before webhookd looked; what the provider changed within a day, since a webhook can be late; and
-- what events changed since a day before the lists, which are read one after the other.
WITH theirs AS (
    SELECT subscription_id, lower(status) AS status, amount, created_at, seen_at
    FROM webhookd.provider_subscriptions
    WHERE account = :account
), ours AS (
    SELECT subscription_id, lower(status) AS status, amount, coalesce(last_event_at, first_event_at) AS last_event_at
    FROM webhookd.subscriptions
    WHERE account = :account
), both_sides AS (
    SELECT
        coalesce(t.subscription_id, o.subscription_id) AS subscription_id, t.subscription_id IS NOT NULL AS there,
        o.subscription_id IS NOT NULL AS here, t.status, t.amount, t.created_at, o.status AS our_status, o.amount AS our_amount
    FROM theirs t
    FULL JOIN ours o ON o.subscription_id = t.subscription_id
    CROSS JOIN (SELECT subscriptions_at FROM webhookd.provider_sweeps WHERE account = :account) s
    WHERE (t.subscription_id IS NULL OR t.seen_at < now() - interval '1 day')
        AND (o.subscription_id IS NULL OR o.last_event_at < s.subscriptions_at - interval '1 day')
)
SELECT b.subscription_id, 'at the provider and not here' AS kind, b.status AS provider, NULL::text AS other
FROM both_sides b
JOIN webhookd.provider_sweeps s ON s.account = :account AND b.created_at >= s.swept_from
WHERE NOT b.here
UNION ALL
SELECT subscription_id, 'here and not at the provider', NULL, our_status FROM both_sides WHERE NOT there
UNION ALL
SELECT subscription_id, 'status differs', status, our_status FROM both_sides WHERE status <> our_status
UNION ALL
SELECT subscription_id, 'amount differs', amount::text, our_amount::text FROM both_sides WHERE amount <> our_amount
UNION ALL
SELECT subscription_id, 'renewal did not come', expected_on::text, NULL
FROM webhookd.provider_missed_renewals
WHERE account = :account AND came_at IS NULL AND expected_on >= (now() AT TIME ZONE 'UTC')::date - 14;
