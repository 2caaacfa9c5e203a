-- name: details_of_event(id, account, transaction_id, redriven_at)^
-- Returns what webhookd knows of an event's transaction, and whether the event waits for it.
-- `came`: whether a wait has ended. `noted`: whether the event has a row of a wait. `since`, `waited`: since when, and for how many seconds, it
-- waits; now and NULL if it does not wait. `asks`: whether a process asks the provider for the account.
SELECT
    t.transaction_id, t.version, t.status, t.seen_at, t.next_look_at, t.amount, t.batch_id, t.settled_at, t.submitted_at, t.type,
    t.ref_transaction_id, t.account_type, t.invoice_number, t.subscription_id, t.payment_number, t.echeck, t.detailed, t.lists_returns,
    t.returned_items, t.failed_batches, t.listed_in,
    d.event_id IS NOT NULL AS noted, d.came_at IS NOT NULL AS came, d.problem, coalesce(w.since, clock_timestamp()) AS since,
    extract(epoch FROM clock_timestamp() - w.since)::float8 AS waited,
    coalesce(a.held_until > now(), false) AS asks
FROM (SELECT) AS one
LEFT JOIN webhookd.provider_transactions t ON t.account = :account AND t.transaction_id = :transaction_id
LEFT JOIN webhookd.details_wanted d ON d.event_id = :id
LEFT JOIN LATERAL (
    SELECT d.since WHERE d.came_at IS NULL AND d.since >= coalesce(:redriven_at::timestamptz, d.since)
) AS w ON true
LEFT JOIN webhookd.provider_accounts a ON a.account = :account;

-- name: end_wait_for_details(id)!
-- Runs in the transaction that ends the event's work.
DELETE FROM webhookd.details_wanted WHERE event_id = :id;

-- name: take_wanted_details(account, most)
-- Returns the events that wait for details of up to `most` transactions for which the provider is to be asked now; all events of such a
-- transaction. Removes the rows of events that wait no more, because their work has ended or is dead.
WITH next AS MATERIALIZED (
    SELECT event_id, transaction_id
    FROM webhookd.details_wanted
    WHERE account = :account AND came_at IS NULL AND next_try_at <= now()
    ORDER BY next_try_at
    LIMIT :most
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM webhookd.details_wanted
    WHERE event_id = ANY(ARRAY(
        SELECT next.event_id
        FROM next LEFT JOIN LATERAL (
            SELECT true AS waits FROM webhookd.work
            WHERE event_id = next.event_id AND consumer = 'handlers' AND status NOT IN ('dead', 'discarded')
            OFFSET 0
        ) AS w ON true
        WHERE w.waits IS NULL
    ))
    RETURNING event_id
)
SELECT d.event_id, d.transaction_id, d.tries, extract(epoch FROM now() - d.since)::float8 AS waited, k.event_type
FROM webhookd.details_wanted d
CROSS JOIN LATERAL (SELECT kind FROM webhookd.ledger WHERE id = d.event_id OFFSET 0) AS l
LEFT JOIN webhookd.kinds k ON k.id = l.kind
WHERE d.account = :account AND d.came_at IS NULL AND d.transaction_id = ANY(ARRAY(SELECT transaction_id FROM next))
    AND d.event_id <> ALL(ARRAY(SELECT event_id FROM gone));

-- name: wake_for_details(ids)!
-- Records that the details have come, and has the work of these events sent at once. Run it after the facts are stored.
-- The statement skips work that a worker holds: that attempt may have read before the facts were stored, and then waits anew. Such an event
-- stays wanted, and the provider is asked again after 15 s, not at each look of the role `sync`. The statement leaves alone the delay of
-- work that has failed since it began to wait, and work whose message is on its way.
WITH waiting AS MATERIALIZED (
    SELECT event_id FROM webhookd.work
    WHERE event_id = ANY(:ids::uuid[]) AND consumer = 'handlers' AND status NOT IN ('dead', 'discarded')
    ORDER BY event_id
    FOR UPDATE SKIP LOCKED
), came AS (
    UPDATE webhookd.details_wanted
    SET came_at = CASE WHEN event_id = ANY(ARRAY(SELECT event_id FROM waiting)) THEN now() END,
        problem = NULL, next_try_at = now() + interval '15 seconds'
    WHERE event_id = ANY(:ids::uuid[]) AND came_at IS NULL
    RETURNING event_id, attempts
)
UPDATE webhookd.work w SET due = now()
FROM came
WHERE w.event_id = ANY(ARRAY(SELECT event_id FROM waiting)) AND w.event_id = came.event_id AND w.consumer = 'handlers'
    AND w.attempts = came.attempts AND w.status = 'retrying' AND w.sends = 0;

-- name: postpone_wanted_details(ids, delay, problem)!
-- Records that the provider was asked in vain about the transaction of these events. The next try is in `delay` seconds.
UPDATE webhookd.details_wanted SET tries = tries + 1, next_try_at = now() + make_interval(secs => :delay), problem = :problem
WHERE event_id = ANY(ARRAY(
    SELECT event_id FROM webhookd.details_wanted
    WHERE event_id = ANY(:ids::uuid[]) AND came_at IS NULL
    ORDER BY event_id
    FOR UPDATE
));

-- name: postpone_all_wanted_details(account, delay, problem)!
-- Records that the provider cannot be asked for an account. No try is counted.
UPDATE webhookd.details_wanted SET next_try_at = now() + make_interval(secs => :delay), problem = :problem
WHERE event_id = ANY(ARRAY(
    SELECT event_id FROM webhookd.details_wanted
    WHERE account = :account AND came_at IS NULL AND next_try_at <= now()
    ORDER BY event_id
    FOR UPDATE SKIP LOCKED
));

-- name: count_wanted_details(account)^
-- Returns how many events wait for details, and for how many seconds the oldest one has waited.
SELECT count(*) AS events, coalesce(extract(epoch FROM now() - min(since)), 0)::float8 AS oldest
FROM webhookd.details_wanted
WHERE account = :account AND came_at IS NULL;
