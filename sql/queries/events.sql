-- Where rows are looked up by id, their status is compared by NOT IN ('processed', 'dead') or <>: by IN or =, PostgreSQL may read one of
-- the partial indexes of what waits instead of the ids, as it does where its statistics are of an hour in which nothing waited; then
-- each statement reads the whole backlog (tests/integration/test_plans.py).

-- name: insert_events(ids, accounts, notification_ids, event_types, event_dates, entity_names, entity_ids, invoice_numbers, merchant_references, key_fingerprints, content_hashes, body_hashes, bodies, traceparents, send_after, actor, reason)
-- Commits new notifications: one row in events, one body, one audit row each, in one statement. A column of texts comes as one
-- text, its parts separated by U+001F; an empty part is NULL where NULL may be, and so is every part where the whole is NULL
-- (`traceparents`, where nothing is traced). Returns the ids that are new; an id that is missing is a duplicate, by
-- notification id or by content. The caller sorts the arrays, and the rows go in by their position there: two batches with the same
-- events take their locks in the same order, and cannot deadlock. No join keeps an order by itself.
WITH incoming AS MATERIALIZED (
    SELECT i.*
    FROM unnest(
        :ids::uuid[], string_to_array(:accounts, chr(31)), string_to_array(:notification_ids, chr(31)),
        string_to_array(:event_types, chr(31)), :event_dates::timestamptz[], string_to_array(:entity_names, chr(31), ''),
        string_to_array(:entity_ids, chr(31), ''), string_to_array(:invoice_numbers, chr(31), ''),
        string_to_array(:merchant_references, chr(31), ''), string_to_array(:key_fingerprints, chr(31)),
        :content_hashes::bytea[], :body_hashes::bytea[], :bodies::bytea[], string_to_array(:traceparents, chr(31), '')
    ) WITH ORDINALITY AS i (
        id, account, notification_id, event_type, event_date,
        entity_name, entity_id, invoice_number, merchant_reference,
        key_fingerprint, content_hash, body_hash, body, traceparent, position
    )
    -- An alias sent again with other bytes has another content hash; its id alone must stop it.
    WHERE NOT EXISTS (
        SELECT FROM webhookd.notification_aliases a
        WHERE a.account = i.account AND a.notification_id = i.notification_id
    )
), inserted AS (
    INSERT INTO webhookd.events (
        id, account, notification_id, event_type, event_date, entity_name, entity_id, invoice_number,
        merchant_reference, key_fingerprint, content_hash, body_hash, traceparent, send_after
    )
    SELECT
        id, account, notification_id, event_type, event_date, entity_name, entity_id, invoice_number,
        merchant_reference, key_fingerprint, content_hash, body_hash, traceparent, now() + make_interval(secs => :send_after)
    FROM incoming
    ORDER BY position
    ON CONFLICT DO NOTHING
    RETURNING id, received_at
), body AS (
    INSERT INTO webhookd.event_bodies (event_id, body)
    SELECT id, incoming.body FROM incoming JOIN inserted USING (id)
), audit AS (
    INSERT INTO webhookd.event_audit (event_id, at, to_status, actor, reason)
    SELECT id, received_at, 'received', :actor, :reason FROM inserted
)
SELECT id FROM inserted;

-- name: find_duplicates(accounts, notification_ids, content_hashes, body_hashes)
-- For notifications that insert_events did not take: which event each one repeats. `layer` is 'notification_id' or
-- 'content'; `same_body` tells a repetition from another body under the same id. A first repetition by content leaves its
-- notification id as an alias of the event. Aliases go in by their key, as in every other such statement.
WITH incoming AS MATERIALIZED (
    SELECT *
    FROM unnest(:accounts::text[], :notification_ids::text[], :content_hashes::bytea[], :body_hashes::bytea[])
        WITH ORDINALITY AS i (account, notification_id, content_hash, body_hash, position)
), found AS (
    SELECT
        i.*,
        coalesce(same.id, alias.event_id, content.id) AS event_id,
        same.id IS NULL AND alias.event_id IS NULL AND content.id IS NOT NULL AS new_alias,
        CASE WHEN same.id IS NULL THEN 'content' ELSE 'notification_id' END AS layer,
        coalesce(same.body_hash, alias.body_hash, i.body_hash) = i.body_hash AS same_body
    FROM incoming i
    LEFT JOIN webhookd.events same ON same.account = i.account AND same.notification_id = i.notification_id
    LEFT JOIN webhookd.notification_aliases alias ON alias.account = i.account AND alias.notification_id = i.notification_id
    LEFT JOIN webhookd.events content ON content.content_hash = i.content_hash
), aliases AS (
    INSERT INTO webhookd.notification_aliases (account, notification_id, event_id, body_hash)
    SELECT account, notification_id, event_id, body_hash FROM found WHERE new_alias
    ORDER BY account, notification_id
    ON CONFLICT DO NOTHING
)
SELECT position, event_id, layer, same_body FROM found WHERE event_id IS NOT NULL;

-- name: insert_quarantine(ids, accounts, reasons, details, key_fingerprints, bodies, body_hashes)
-- Keeps authentic bodies that cannot become events; the same bytes again are counted, not kept twice. Returns, in the
-- order given, the id under which each body is kept.
WITH incoming AS MATERIALIZED (
    SELECT *
    FROM unnest(:ids::uuid[], :accounts::text[], :reasons::text[], :details::text[], :key_fingerprints::text[],
                :bodies::bytea[], :body_hashes::bytea[])
        WITH ORDINALITY AS i (id, account, reason, detail, key_fingerprint, body, body_hash, position)
), kept AS (
    INSERT INTO webhookd.quarantine AS q (id, account, reason, detail, key_fingerprint, body, body_hash)
    SELECT DISTINCT ON (account, body_hash) id, account, reason, detail, key_fingerprint, body, body_hash
    FROM incoming
    ORDER BY account, body_hash
    ON CONFLICT (account, body_hash) DO UPDATE SET times_received = q.times_received + 1
    RETURNING q.id, q.account, q.body_hash
)
SELECT kept.id FROM incoming JOIN kept USING (account, body_hash) ORDER BY position;

-- name: mark_sent(ids, attempts, alone, redriven, resend_after)
-- Records that events were sent to SQS: the first send makes them `queued`; each one puts the next send further away
-- (doubling, at most 12 hours). Rows that a worker holds are skipped: they end by themselves, or are sent again. So is an event that
-- has been tried since it was sent: its retry is due when it is due. An event that was redriven since is skipped too (`redriven`:
-- when each was redriven last), and so is one that was taken out of its bundle: their message of that time is gone.
WITH sent AS MATERIALIZED (
    SELECT e.id, e.status
    FROM unnest(:ids::uuid[], :attempts::integer[], :alone::boolean[], :redriven::timestamptz[])
        AS s (id, attempts, alone, redriven_at)
    JOIN webhookd.events e ON e.id = s.id AND e.redriven_at IS NOT DISTINCT FROM s.redriven_at
    WHERE e.attempts = s.attempts AND e.status NOT IN ('processed', 'dead') AND (s.alone OR e.sends = 0)
    ORDER BY e.id
    FOR UPDATE OF e SKIP LOCKED
), changed AS (
    UPDATE webhookd.events e
    SET status = CASE WHEN e.status = 'received' THEN 'queued' ELSE e.status END,
        sends = e.sends + 1,
        send_after = greatest(now(), coalesce(e.retry_at, now()))
            + make_interval(secs => least(:resend_after::float8 * 2 ^ least(e.sends, 20), 43200))
    FROM sent
    WHERE e.id = sent.id
)
INSERT INTO webhookd.event_audit (event_id, from_status, to_status, actor)
SELECT id, 'received', 'queued', 'relay' FROM sent WHERE status = 'received';

-- name: claim_unsent(statuses, limit, lease)
-- Takes up to `limit` events in `statuses` that are due for sending, for `lease` seconds; safe on any number of replicas.
-- What an operator has put back comes after all others; so does what was never sent and is due as far away as no event is
-- made: its time is of a clock that has been put back since. `alone`: what happened to it before must not happen
-- to others. Each part is taken in its index's order: without an order, a long outbox is read from the table's start each
-- time, past all that has been sent.
WITH fresh AS MATERIALIZED (
    SELECT due.id
    FROM unnest(:statuses::text[]) AS s (status), LATERAL (
        SELECT id FROM webhookd.events
        WHERE status = s.status AND status IN ('received', 'queued', 'retrying') AND send_after <= now() AND redriven_at IS NULL
        ORDER BY send_after
        LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ) AS due
    LIMIT :limit
), redriven AS MATERIALIZED (
    SELECT due.id
    FROM unnest(:statuses::text[]) AS s (status), LATERAL (
        SELECT id FROM webhookd.events
        WHERE status = s.status AND status IN ('received', 'queued', 'retrying') AND redriven_at IS NOT NULL
            AND (send_after <= now() OR status = 'received' AND send_after > now() + interval '1 minute')
        ORDER BY send_after
        LIMIT :limit - (SELECT count(*) FROM fresh)
        FOR UPDATE SKIP LOCKED
    ) AS due
    LIMIT :limit - (SELECT count(*) FROM fresh)
), stranded AS MATERIALIZED (
    SELECT id FROM webhookd.events
    WHERE 'received' = ANY(:statuses::text[]) AND status = 'received' AND redriven_at IS NULL
        AND send_after > now() + interval '1 minute'
    ORDER BY send_after
    LIMIT :limit - (SELECT count(*) FROM fresh) - (SELECT count(*) FROM redriven)
    FOR UPDATE SKIP LOCKED
)
UPDATE webhookd.events e
SET send_after = now() + make_interval(secs => :lease)
WHERE e.id = ANY(ARRAY(SELECT id FROM fresh UNION ALL SELECT id FROM redriven UNION ALL SELECT id FROM stranded))
RETURNING
    e.id, e.account, e.event_type, e.attempts, e.sends > 0 OR e.attempts > 0 OR e.redriven_at IS NOT NULL AS alone,
    e.redriven_at, e.traceparent;

-- name: send_alone(ids)$
-- Events of a bundle that came back: those that wait, and are sent no more than in a bundle so far, are due at once, each in a
-- message of its own. An event is taken out of its bundles once, so many messages that name it make one more, not many. Returns
-- which of the events exist.
WITH waiting AS MATERIALIZED (
    SELECT id FROM webhookd.events
    WHERE id = ANY(:ids::uuid[]) AND status NOT IN ('processed', 'dead') AND sends < 2 AND attempts = 0 AND redriven_at IS NULL
    ORDER BY id
    FOR UPDATE
), changed AS (
    UPDATE webhookd.events e SET send_after = now(), sends = 2 FROM waiting WHERE e.id = waiting.id
)
SELECT array_agg(id) FROM webhookd.events WHERE id = ANY(:ids::uuid[]);

-- name: put_back(ids, delay)!
-- Events that were claimed for sending and could not be sent: due again in `delay` seconds rather than at the end of the lease.
-- A row that somebody holds is skipped: its lease ends by itself.
UPDATE webhookd.events SET send_after = now() + make_interval(secs => :delay)
WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.events WHERE id = ANY(:ids::uuid[]) AND status NOT IN ('processed', 'dead') ORDER BY id FOR UPDATE SKIP LOCKED
));

-- name: count_in_queue(limit)$
-- How many unfinished events have a message in SQS, counted no further than `limit` of each kind.
SELECT
    (SELECT count(*) FROM (SELECT FROM webhookd.events WHERE status IN ('queued', 'retrying') AND redriven_at IS NULL LIMIT :limit) AS fresh)
    + (SELECT count(*) FROM (
        SELECT FROM webhookd.events WHERE status IN ('queued', 'retrying') AND redriven_at IS NOT NULL LIMIT :limit
    ) AS redriven);

-- name: claim_event(id)^
-- Locks one event for a worker, and reads all that a handler needs. `wait` is how many seconds its retry is still away;
-- unknown where the clock was put back since the event's receipt, and then SQS's delay alone holds.
SELECT
    e.id, e.account, e.notification_id, e.event_type, e.event_date, e.received_at, e.status, e.attempts,
    e.redriven_at, e.traceparent,
    b.body,
    CASE WHEN e.received_at <= clock_timestamp() THEN extract(epoch FROM e.retry_at - clock_timestamp())::float8 END AS wait,
    pg_current_xact_id()::text AS transaction
FROM webhookd.events e
LEFT JOIN webhookd.event_bodies b ON b.event_id = :id
WHERE e.id = :id
FOR UPDATE OF e;

-- name: claim_event_if_free(id)^
-- As claim_event, for an event that Redis says another worker has: fails at once where its row is locked.
SELECT
    e.id, e.account, e.notification_id, e.event_type, e.event_date, e.received_at, e.status, e.attempts,
    e.redriven_at, e.traceparent,
    b.body,
    CASE WHEN e.received_at <= clock_timestamp() THEN extract(epoch FROM e.retry_at - clock_timestamp())::float8 END AS wait,
    pg_current_xact_id()::text AS transaction
FROM webhookd.events e
LEFT JOIN webhookd.event_bodies b ON b.event_id = :id
WHERE e.id = :id
FOR UPDATE OF e NOWAIT;

-- name: read_events(ids)
-- What claim_event reads, of many events and without a lock.
SELECT
    e.id, e.account, e.notification_id, e.event_type, e.event_date, e.received_at, e.status, e.attempts,
    e.redriven_at, e.traceparent,
    b.body,
    CASE WHEN e.received_at <= clock_timestamp() THEN extract(epoch FROM e.retry_at - clock_timestamp())::float8 END AS wait,
    NULL AS transaction
FROM webhookd.events e
-- The ids once more: with them, PostgreSQL locks and reads the partitions of these ids alone.
LEFT JOIN webhookd.event_bodies b ON b.event_id = e.id AND b.event_id = ANY(:ids::uuid[])
WHERE e.id = ANY(:ids::uuid[]);

-- name: mark_processed(id, transaction, from_status)^
-- Inside the worker's transaction: the event's effects and this status commit together. Returns the seconds since the receipt, or since
-- the redrive; no row where it is not the `transaction` that claimed the event.
WITH changed AS (
    UPDATE webhookd.events
    SET status = 'processed', attempts = attempts + 1, finished_at = clock_timestamp(), retry_at = NULL, last_error = NULL
    WHERE id = :id AND pg_current_xact_id()::text = :transaction
    RETURNING id, attempts, finished_at, coalesce(redriven_at, received_at) AS since
), audit AS (
    INSERT INTO webhookd.event_audit (event_id, at, from_status, to_status, actor, attempt)
    SELECT id, finished_at, :from_status, 'processed', 'worker', attempts FROM changed
)
SELECT extract(epoch FROM finished_at - since)::float8 AS seconds FROM changed;

-- name: process_events(lock_timeout, ids, attempts, redriven, tables, accounts, entities, facts)
-- Folds facts of many events into the timeline, and ends those events (`ids`) that no handler is for: one statement, one transaction.
-- All or nothing: where one of `ids` has ended or was tried since it was read, no row is written, and none returns; else the
-- seconds of each, as from mark_processed, in any order. Rows are locked in the order of their ids, and those of the timeline as the
-- caller sorted them, so that two such statements cannot deadlock. `impatient` comes before each lock, since every row that
-- is locked or written goes through a join with it.
WITH impatient AS MATERIALIZED (
    SELECT set_config('lock_timeout', :lock_timeout, true)
), due AS MATERIALIZED (
    SELECT e.id, e.status
    FROM impatient, unnest(:ids::uuid[], :attempts::integer[], :redriven::timestamptz[]) AS c (id, attempts, redriven_at)
    JOIN webhookd.events e ON e.id = c.id AND e.redriven_at IS NOT DISTINCT FROM c.redriven_at
    WHERE e.attempts = c.attempts AND e.status NOT IN ('processed', 'dead')
    ORDER BY e.id
    FOR UPDATE OF e
), whole AS MATERIALIZED (
    SELECT FROM due HAVING count(*) = cardinality(:ids::uuid[])
), kept AS MATERIALIZED (
    SELECT f.*
    FROM impatient, whole, unnest(:tables::text[], :accounts::text[], :entities::text[], :facts::text[])
        WITH ORDINALITY AS f (name, account, id, facts, position)
), kept_transactions AS (
    INSERT INTO webhookd.transactions AS t (account, transaction_id, facts)
    SELECT account, id, webhookd.settle(facts::jsonb) FROM kept WHERE name = 'transactions' ORDER BY position
    ON CONFLICT (account, transaction_id) DO UPDATE SET facts = webhookd.settle(webhookd.fold(t.facts, excluded.facts))
), kept_subscriptions AS (
    INSERT INTO webhookd.subscriptions AS s (account, subscription_id, facts)
    SELECT account, id, facts::jsonb FROM kept WHERE name = 'subscriptions' ORDER BY position
    ON CONFLICT (account, subscription_id) DO UPDATE SET facts = webhookd.fold(s.facts, excluded.facts)
), kept_customers AS (
    INSERT INTO webhookd.customers AS c (account, customer_profile_id, facts)
    SELECT account, id, facts::jsonb FROM kept WHERE name = 'customers' ORDER BY position
    ON CONFLICT (account, customer_profile_id) DO UPDATE SET facts = webhookd.fold(c.facts, excluded.facts)
), kept_payment_profiles AS (
    INSERT INTO webhookd.payment_profiles AS p (account, payment_profile_id, facts)
    SELECT account, id, facts::jsonb FROM kept WHERE name = 'payment_profiles' ORDER BY position
    ON CONFLICT (account, payment_profile_id) DO UPDATE SET facts = webhookd.fold(p.facts, excluded.facts)
), changed AS (
    UPDATE webhookd.events e
    SET status = 'processed', attempts = e.attempts + 1, finished_at = clock_timestamp(), retry_at = NULL, last_error = NULL
    FROM due, whole
    WHERE e.id = due.id
    RETURNING e.id, due.status AS from_status, e.attempts, e.finished_at, coalesce(e.redriven_at, e.received_at) AS since
), audit AS (
    INSERT INTO webhookd.event_audit (event_id, at, from_status, to_status, actor, attempt)
    SELECT id, finished_at, from_status, 'processed', 'worker', attempts FROM changed
)
SELECT extract(epoch FROM finished_at - since)::float8 AS seconds FROM changed;

-- name: mark_retrying(reason, delay, resend_after, id, attempts, redriven_at, from_status)^
-- A failed attempt with another to come, `delay` seconds from now. If the event moved on since it was claimed, nothing changes and
-- no row returns: another attempt has another number, and a redrive, which counts anew, another `redriven_at`.
WITH changed AS (
    UPDATE webhookd.events
    SET status = 'retrying', attempts = attempts + 1, last_error = :reason,
        retry_at = now() + make_interval(secs => :delay),
        send_after = now() + make_interval(secs => :delay::float8 + :resend_after::float8)
    WHERE id = :id AND attempts = :attempts AND redriven_at IS NOT DISTINCT FROM :redriven_at::timestamptz
        AND status NOT IN ('processed', 'dead')
    RETURNING id, attempts
), audit AS (
    INSERT INTO webhookd.event_audit (event_id, from_status, to_status, actor, attempt, reason)
    SELECT id, :from_status, 'retrying', 'worker', attempts, :reason FROM changed
)
SELECT attempts FROM changed;

-- name: mark_dead(spent, detail, reason, id, attempts, redriven_at, from_status, actor)^
-- An event given up, with the reason; its copy for the dead-letter queue is owed from now on. Guarded like mark_retrying.
WITH changed AS (
    UPDATE webhookd.events
    SET status = 'dead', attempts = attempts + :spent, last_error = :detail, dead_reason = :reason, retry_at = NULL,
        finished_at = now(), dead_letter_sent_at = NULL
    WHERE id = :id AND attempts = :attempts AND redriven_at IS NOT DISTINCT FROM :redriven_at::timestamptz
        AND status NOT IN ('processed', 'dead')
    RETURNING id, attempts
), audit AS (
    INSERT INTO webhookd.event_audit (event_id, from_status, to_status, actor, attempt, reason)
    SELECT id, :from_status, 'dead', :actor, attempts, :detail FROM changed
)
SELECT (extract(epoch FROM now()) * 1000000)::bigint AS died FROM changed;

-- name: backlog()^
-- The size of the outbox, counted no further than 100,000 of each kind, and for how many seconds the oldest unfinished event has been so (NULL when all have ended).
SELECT
    (SELECT count(*) FROM (SELECT FROM webhookd.events WHERE status = 'received' AND redriven_at IS NULL LIMIT 100000) AS fresh)
        + (SELECT count(*) FROM (
            SELECT FROM webhookd.events WHERE status = 'received' AND redriven_at IS NOT NULL LIMIT 100000
        ) AS redriven) AS outbox,
    (SELECT extract(epoch FROM clock_timestamp() - coalesce(redriven_at, received_at))::float8 FROM webhookd.events
     WHERE status IN ('received', 'queued', 'retrying') ORDER BY coalesce(redriven_at, received_at) LIMIT 1) AS oldest;

-- name: audit_trail(id)
SELECT at, from_status, to_status, actor, attempt, reason FROM webhookd.event_audit WHERE event_id = :id ORDER BY at;
