-- Statements that look up work by the ids of events compare the status by NOT IN ('dead', 'discarded') or by <>. With IN or =, PostgreSQL
-- may read one of the partial indexes of waiting work instead of the ids. PostgreSQL does this if its statistics are of an hour in which
-- nothing waited. Then each statement reads the whole backlog (tests/integration/test_plans.py).
-- For the same reason, each access to a table by a list of ids names that list itself, or is LATERAL with OFFSET 0. If PostgreSQL
-- believes that a table is empty, it joins by reading all of an index.
-- The table work has one consumer, 'handlers'. The deliveries to destinations are in the table deliveries.

-- name: insert_events(ids, notification_keys, content_keys, body_hashes, kinds, notification_ids, event_dates, entity_ids, invoice_numbers, merchant_references, bodies, traceparents, kind_ids, kind_texts, send_after, actor, reason, delivery_ids, destinations)^
-- Commits new notifications in one statement: for each notification, one row in the ledger, one body and one piece of work. If `actor` is
-- given, the actor caused the events instead of the provider, and the audit trail records the actor.
-- A column of texts comes as one text, whose parts are separated by U+001F. An empty part is NULL in a column that may be NULL. If the
-- whole text is NULL, every part is NULL (`traceparents`, if nothing is traced).
-- Returns one row. `due` is the time from which the sweeper may take the new events. `new_ids` has the ids of the new events. `new_ids`
-- is NULL if all events of the batch are new, as in nearly every batch. An event that is not new is a duplicate, by notification id or by
-- content.
-- The caller sorts the arrays, and ORDER BY inserts the rows by their position in the arrays, because SQL promises no order without it.
-- So two batches with the same events take their locks in the same order, and cannot deadlock.
-- `delivery_ids` and `destinations` are the pairs of an event and a destination that gets the event, sorted. Both are NULL if no
-- destination gets any event of the batch. A duplicate makes no delivery.
-- `kind_ids` and `kind_texts` are the kinds of the batch, each kind once. If the table kinds lacks one of these kinds, or has other texts
-- under its id, the statement stores nothing and returns `known` = false. Then run insert_kinds first. The statement looks up the kinds
-- each time, because a failover or a restore may have lost a kind. With an INSERT of new kinds in this statement, each batch took 37 µs
-- more, although a new kind comes only once.
WITH kinds AS MATERIALIZED (
    SELECT count(*) = cardinality(:kind_ids::bigint[]) AS known
    FROM webhookd.kinds
    WHERE id = ANY(:kind_ids::bigint[])
        AND concat_ws(chr(31), account, event_type, coalesce(entity_name, ''), key_fingerprint) = ANY(:kind_texts::text[])
), incoming AS MATERIALIZED (
    SELECT i.*
    FROM unnest(
        :ids::uuid[], :notification_keys::uuid[], :content_keys::uuid[], :body_hashes::uuid[],
        :kinds::bigint[], string_to_array(:notification_ids, chr(31)), :event_dates::timestamptz[],
        string_to_array(:entity_ids, chr(31), ''), string_to_array(:invoice_numbers, chr(31), ''),
        string_to_array(:merchant_references, chr(31), ''), :bodies::bytea[], string_to_array(:traceparents, chr(31), '')
    ) WITH ORDINALITY AS i (
        id, notification_key, content_key, body_hash, kind, notification_id, event_date,
        entity_id, invoice_number, merchant_reference, body, traceparent, position
    )
    -- A notification whose id is an alias may come again with other bytes. Then its content key is another one, so the notification id
    -- alone must stop it. One look-up serves all rows, because there are few aliases.
    WHERE i.notification_key <> ALL(ARRAY(
        SELECT notification_key FROM webhookd.notification_aliases WHERE notification_key = ANY(:notification_keys::uuid[])
    )) AND (SELECT known FROM kinds)
), inserted AS (
    INSERT INTO webhookd.ledger (
        id, notification_key, content_key, body_hash, event_date, kind, notification_id, entity_id, invoice_number, merchant_reference,
        traceparent
    )
    SELECT
        id, notification_key, content_key, body_hash, event_date, kind, notification_id, entity_id, invoice_number, merchant_reference,
        traceparent
    FROM incoming
    ORDER BY position
    ON CONFLICT DO NOTHING
    RETURNING id, received_at
), body AS (
    INSERT INTO webhookd.bodies (event_id, body)
    SELECT id, incoming.body FROM incoming JOIN inserted USING (id)
), work AS (
    INSERT INTO webhookd.work (event_id, consumer, due)
    SELECT id, 'handlers', now() + make_interval(secs => :send_after) FROM inserted
), deliveries AS (
    INSERT INTO webhookd.deliveries (event_id, destination)
    SELECT d.id, d.destination
    FROM unnest(:delivery_ids::uuid[], :destinations::text[]) AS d (id, destination) JOIN inserted USING (id)
), audit AS (
    INSERT INTO webhookd.audit (event_id, at, to_status, actor, reason)
    SELECT id, received_at, 'received', :actor, :reason FROM inserted WHERE :actor::text IS NOT NULL
)
SELECT
    (SELECT known FROM kinds) AS known,
    now() + make_interval(secs => :send_after) AS due,
    CASE WHEN count(*) < cardinality(:ids::uuid[]) THEN coalesce(array_agg(id), '{}') END AS new_ids
FROM inserted;

-- name: insert_kinds(kind_ids, kind_texts)!
-- Stores kinds of events in the order of their ids, so that two such statements cannot deadlock. A kind that is already stored is neither
-- locked nor written. If another kind has the id, the statement fails. DO UPDATE makes the statement fail also if a transaction commits
-- that other kind meanwhile.
INSERT INTO webhookd.kinds AS k (id, account, event_type, entity_name, key_fingerprint)
SELECT i.id, text[1], text[2], nullif(text[3], ''), text[4]
FROM unnest(:kind_ids::bigint[], :kind_texts::text[]) AS i (id, joined), LATERAL (SELECT string_to_array(joined, chr(31)) AS text) AS s
WHERE NOT EXISTS (
    SELECT FROM webhookd.kinds
    WHERE id = i.id AND concat_ws(chr(31), account, event_type, coalesce(entity_name, ''), key_fingerprint) = joined
)
ORDER BY i.id
ON CONFLICT (id) DO UPDATE SET account = ''  -- the constraint kinds_one_kind_an_id forbids an empty account
WHERE (k.account, k.event_type, k.entity_name, k.key_fingerprint)
    IS DISTINCT FROM (excluded.account, excluded.event_type, excluded.entity_name, excluded.key_fingerprint);

-- name: find_duplicates(accounts, notification_ids, notification_keys, content_keys, body_hashes)
-- Finds the event that each notification repeats, for notifications that insert_events did not take. `layer` is 'notification_id' or
-- 'content'. `same_body` distinguishes a repetition from another body under the same id. An event that was taken from the
-- provider's history, or an alias from there (with the nil hash), has other bytes than its webhook; that is no other body. The first repetition by content leaves its
-- notification id as an alias of the event. Aliases are inserted in the order of their keys, so that two such statements cannot deadlock.
WITH incoming AS MATERIALIZED (
    SELECT *
    FROM unnest(
        :accounts::text[], :notification_ids::text[], :notification_keys::uuid[], :content_keys::uuid[], :body_hashes::uuid[]
    ) WITH ORDINALITY AS i (account, notification_id, notification_key, content_key, body_hash, position)
), found AS (
    SELECT
        i.*,
        coalesce(same.id, alias.event_id, content.id) AS event_id,
        same.id IS NULL AND alias.event_id IS NULL AND content.id IS NOT NULL AS new_alias,
        CASE WHEN same.id IS NULL THEN 'content' ELSE 'notification_id' END AS layer,
        coalesce(same.body_hash, alias.body_hash, i.body_hash) = i.body_hash
            OR alias.body_hash = '00000000-0000-0000-0000-000000000000'
            OR EXISTS (SELECT FROM webhookd.kinds WHERE id = same.kind AND key_fingerprint = 'history') AS same_body
    FROM incoming i
    LEFT JOIN LATERAL (
        SELECT id, body_hash, kind FROM webhookd.ledger WHERE notification_key = i.notification_key OFFSET 0
    ) AS same ON true
    LEFT JOIN LATERAL (
        SELECT event_id, body_hash FROM webhookd.notification_aliases WHERE notification_key = i.notification_key OFFSET 0
    ) AS alias ON true
    LEFT JOIN LATERAL (SELECT id FROM webhookd.ledger WHERE content_key = i.content_key OFFSET 0) AS content ON true
), aliases AS (
    INSERT INTO webhookd.notification_aliases (notification_key, event_id, body_hash, account, notification_id)
    SELECT notification_key, event_id, body_hash, account, notification_id FROM found WHERE new_alias
    ORDER BY notification_key
    ON CONFLICT DO NOTHING
)
SELECT position, event_id, layer, same_body FROM found WHERE event_id IS NOT NULL;

-- name: insert_quarantine(ids, accounts, reasons, details, key_fingerprints, bodies, body_hashes)
-- Stores authentic bodies that cannot become events. If the same bytes come again, the statement counts them and does not store them
-- twice. Returns the id under which each body is stored, in the order given.
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

-- name: mark_sent(ids, dues, resend_after)
-- Records that work was sent to SQS. The status becomes `queued`. Each send delays the time from which the message may count as lost: the
-- delay doubles with each send, to at most 12 hours. If the work was queued already, this send follows another send and leaves an audit
-- row.
-- Work that has changed since it was chosen has another `due` than the time in `dues`. Such work stays as it is, because the message of
-- that time may be gone. The statement skips work that a worker holds: such work ends by itself, or is sent again.
WITH sent AS MATERIALIZED (
    SELECT w.*
    FROM (
        SELECT * FROM unnest(:ids::uuid[], :dues::timestamptz[]) AS s (id, due) ORDER BY id
    ) AS s
    -- One look-up for each id, because a join of a thousand ids with work may compare each id with each row.
    CROSS JOIN LATERAL (
        SELECT event_id, status
        FROM webhookd.work
        WHERE event_id = s.id AND consumer = 'handlers' AND due = s.due AND status NOT IN ('dead', 'discarded')
        FOR UPDATE SKIP LOCKED
    ) AS w
), changed AS (
    UPDATE webhookd.work w
    SET status = 'queued',
        sends = greatest(w.sends, 1),
        due = now() + make_interval(secs => least(:resend_after::float8 * 2 ^ least(greatest(w.sends, 1) - 1, 20), 43200))
    WHERE w.event_id = ANY(ARRAY(SELECT event_id FROM sent)) AND w.consumer = 'handlers'
)
INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason)
SELECT event_id, status, status, 'relay', 'sent again' FROM sent WHERE status NOT IN ('received', 'retrying');

-- name: lease_work(fresh, rest, later, lost, lease, resend_after, longest_wait)
-- Takes work that is due for sending, for `lease` seconds. The statement is safe on any number of replicas. It takes up to `fresh` pieces
-- of fresh work, and up to `rest` of the work that was redriven, put back or tried once. It takes up to `later` of the work that was
-- tried more often, and up to `lost` of the work whose message the queue has lost.
-- The message of due work counts as lost in two cases: a poller has found the queue empty since the send, or the send is longer ago than
-- `longest_wait` seconds. The second case is needed because a busy queue is never empty.
-- Some work has times of a clock that has been put back since: the work waits since a time in the future, or its `due` is further away
-- than webhookd ever sets it for received work. The limit is 90 seconds for both. The statement takes such work, too, as if its message
-- was lost: up to `lost` pieces for each of the three ways to find such work.
-- Each part is read in the order of its index. Without an order, PostgreSQL would read a long outbox from the start of the table each
-- time, past all the work that has been sent.
WITH fresh AS MATERIALIZED (
    SELECT event_id FROM webhookd.work
    WHERE status = 'received' AND fresh AND due <= now()
    ORDER BY due
    LIMIT :fresh
    FOR UPDATE SKIP LOCKED
), early AS MATERIALIZED (
    SELECT next.*
    FROM unnest(ARRAY['received', 'retrying']) AS s (status), LATERAL (
        SELECT event_id, due FROM webhookd.work
        WHERE status = s.status AND status IN ('received', 'retrying') AND NOT fresh AND attempts <= 1 AND due <= now()
        ORDER BY due
        LIMIT :rest
        FOR UPDATE SKIP LOCKED
    ) AS next
), late AS MATERIALIZED (
    SELECT next.*
    FROM unnest(ARRAY['received', 'retrying']) AS s (status), LATERAL (
        SELECT event_id, due FROM webhookd.work
        WHERE status = s.status AND status IN ('received', 'retrying') AND NOT fresh AND attempts > 1 AND due <= now()
        ORDER BY due
        LIMIT :later
        FOR UPDATE SKIP LOCKED
    ) AS next
), lost AS MATERIALIZED (
    SELECT next.event_id
    FROM unnest(ARRAY[true, false]) AS s (fresh), LATERAL (
        SELECT event_id FROM webhookd.work
        WHERE status = 'queued' AND work.fresh = s.fresh AND due < least(
            now(),
            greatest(
                (SELECT max(drained_at) FROM webhookd.processes WHERE drained_at <= now()), now() - make_interval(secs => :longest_wait)
            ) + make_interval(secs => :resend_after)
        )
        ORDER BY due
        LIMIT :lost
        FOR UPDATE SKIP LOCKED
    ) AS next
    LIMIT :lost
), fresh_of_another_clock AS MATERIALIZED (
    SELECT event_id FROM webhookd.work
    WHERE status = 'received' AND fresh AND due > now() + interval '90 seconds'
    ORDER BY due
    LIMIT :lost
    FOR UPDATE SKIP LOCKED
), rest_of_another_clock AS MATERIALIZED (
    SELECT event_id FROM webhookd.work
    WHERE status = 'received' AND status IN ('received', 'retrying') AND NOT fresh AND attempts <= 1 AND due > now() + interval '90 seconds'
    ORDER BY due
    LIMIT :lost
    FOR UPDATE SKIP LOCKED
), of_another_clock AS MATERIALIZED (
    SELECT event_id FROM webhookd.work
    WHERE (status IN ('received', 'queued', 'retrying')) IS TRUE AND since > now() + interval '90 seconds'
    ORDER BY since DESC
    LIMIT :lost
    FOR UPDATE SKIP LOCKED
), leased AS (
    UPDATE webhookd.work w
    SET due = now() + make_interval(secs => :lease), since = least(w.since, now()), sends = w.sends + 1,
        fresh = w.fresh AND w.status = 'received'
    WHERE w.consumer = 'handlers' AND w.event_id = ANY(ARRAY(
        SELECT event_id FROM fresh
        UNION ALL (SELECT event_id FROM early ORDER BY due LIMIT :rest)
        UNION ALL (SELECT event_id FROM late ORDER BY due LIMIT :later)
        UNION ALL SELECT event_id FROM lost
        UNION ALL SELECT event_id FROM fresh_of_another_clock
        UNION ALL SELECT event_id FROM rest_of_another_clock
        UNION ALL SELECT event_id FROM of_another_clock
    ))
    RETURNING w.event_id, w.attempts, w.due, CASE
        WHEN w.status = 'queued' THEN 'lost' WHEN w.fresh THEN 'fresh' WHEN w.attempts <= 1 THEN 'rest' ELSE 'later'
    END AS lane
)
SELECT l.id, k.account, k.event_type, leased.attempts, l.traceparent, leased.due, leased.lane
FROM leased CROSS JOIN LATERAL (SELECT * FROM webhookd.ledger WHERE id = leased.event_id OFFSET 0) AS l
LEFT JOIN webhookd.kinds k ON k.id = l.kind;

-- name: return_lease(ids, dues, delay)!
-- Makes work due again that was taken for sending and could not be sent: in `delay` seconds instead of at the end of the lease. Work that
-- has changed since then stays as it is. The statement skips a row that somebody holds, because the lease of that row expires by itself.
UPDATE webhookd.work SET due = now() + make_interval(secs => :delay), sends = sends - 1
WHERE consumer = 'handlers' AND event_id = ANY(ARRAY(
    SELECT w.event_id
    FROM (SELECT * FROM unnest(:ids::uuid[], :dues::timestamptz[]) AS s (id, due) ORDER BY id) AS s
    CROSS JOIN LATERAL (
        SELECT event_id FROM webhookd.work
        WHERE event_id = s.id AND consumer = 'handlers' AND due = s.due AND status NOT IN ('dead', 'discarded')
        FOR UPDATE SKIP LOCKED
    ) AS w
));

-- name: report_worker(id, turns, drained_ago)!
-- Records that a process works, and how much it does at a time (`turns`). `drained_ago` is how many seconds ago a poll began that found
-- the queue empty, or NULL if no poll did. Also removes processes that were not seen for a day.
WITH forgotten AS (
    DELETE FROM webhookd.processes
    WHERE id = ANY(ARRAY(
        SELECT id FROM webhookd.processes WHERE seen_at < now() - interval '1 day' ORDER BY id FOR UPDATE SKIP LOCKED
    ))
)
INSERT INTO webhookd.processes AS w (id, turns, seen_at, drained_at)
VALUES (:id, :turns, now(), now() - make_interval(secs => :drained_ago::float8))
ON CONFLICT (id) DO UPDATE SET
    turns = excluded.turns, seen_at = excluded.seen_at,
    drained_at = greatest(excluded.drained_at, CASE WHEN w.drained_at <= now() THEN w.drained_at END);

-- name: count_in_queue(fresh)^
-- Counts the unfinished work that has a message in SQS, by lane. The statement counts fresh work up to the number `fresh`, and
-- each other lane up to 1,000. In the other lanes, the statement leaves out work that is due, because its message may be lost.
-- `turns` is how much work all workers together do at a time. Only workers that reported within the last minute count.
SELECT
    (SELECT count(*) FROM (SELECT FROM webhookd.work WHERE status = 'queued' AND fresh LIMIT :fresh) AS counted) AS fresh,
    (SELECT count(*) FROM (
        SELECT FROM webhookd.work WHERE status = 'queued' AND NOT fresh AND due > now() AND attempts <= 1 LIMIT 1000
    ) AS counted) AS rest,
    (SELECT count(*) FROM (
        SELECT FROM webhookd.work WHERE status = 'queued' AND NOT fresh AND due > now() AND attempts > 1 LIMIT 1000
    ) AS counted) AS later,
    (SELECT coalesce(sum(turns), 0) FROM webhookd.processes WHERE seen_at > now() - interval '1 minute') AS turns;

-- name: claim_event(id)^
-- Locks the work of one event for a worker, and reads all that a handler needs. Takes no lock if no work is left.
WITH w AS MATERIALIZED (
    SELECT status, attempts, redriven_at, sends, last_error FROM webhookd.work WHERE event_id = :id AND consumer = 'handlers' FOR UPDATE
)
SELECT
    l.id, k.account, l.notification_id, k.event_type, l.event_date, l.received_at, k.key_fingerprint,
    webhookd.status_of(w.status) AS status, coalesce(w.attempts, 0) AS attempts,
    w.redriven_at, coalesce(w.sends, 0) AS sends, w.last_error IS NOT NULL AS failed, l.traceparent,
    b.body,
    pg_current_xact_id()::text AS transaction
FROM webhookd.ledger l
LEFT JOIN webhookd.kinds k ON k.id = l.kind
LEFT JOIN w ON true
LEFT JOIN webhookd.bodies b ON b.event_id = :id
WHERE l.id = :id;

-- name: claim_event_if_free(id)^
-- Like claim_event, for an event that another worker has, according to Redis. Fails at once if the event's work is locked.
WITH w AS MATERIALIZED (
    SELECT status, attempts, redriven_at, sends, last_error FROM webhookd.work WHERE event_id = :id AND consumer = 'handlers' FOR UPDATE NOWAIT
)
SELECT
    l.id, k.account, l.notification_id, k.event_type, l.event_date, l.received_at, k.key_fingerprint,
    webhookd.status_of(w.status) AS status, coalesce(w.attempts, 0) AS attempts,
    w.redriven_at, coalesce(w.sends, 0) AS sends, w.last_error IS NOT NULL AS failed, l.traceparent,
    b.body,
    pg_current_xact_id()::text AS transaction
FROM webhookd.ledger l
LEFT JOIN webhookd.kinds k ON k.id = l.kind
LEFT JOIN w ON true
LEFT JOIN webhookd.bodies b ON b.event_id = :id
WHERE l.id = :id;

-- name: read_events(ids)
-- Reads what claim_event reads, but for many events and without a lock.
SELECT
    l.id, k.account, l.notification_id, k.event_type, l.event_date, l.received_at, k.key_fingerprint,
    webhookd.status_of(w.status) AS status, coalesce(w.attempts, 0) AS attempts,
    w.redriven_at, coalesce(w.sends, 0) AS sends, w.last_error IS NOT NULL AS failed, l.traceparent,
    b.body,
    NULL AS transaction
FROM webhookd.ledger l
LEFT JOIN webhookd.kinds k ON k.id = l.kind
-- The joins name the ids twice more. So PostgreSQL reads only the rows of these ids, and locks only the partitions of these ids.
LEFT JOIN webhookd.work w ON w.event_id = l.id AND w.event_id = ANY(:ids::uuid[]) AND w.consumer = 'handlers'
LEFT JOIN webhookd.bodies b ON b.event_id = l.id AND b.event_id = ANY(:ids::uuid[])
WHERE l.id = ANY(:ids::uuid[]);

-- name: mark_processed(id, transaction)^
-- Runs inside the worker's transaction, so that the event's effects and the end of its work commit together. Returns the seconds since
-- the receipt, or since the redrive. Returns no row if the present transaction is not the `transaction` that claimed the event.
WITH ended AS (
    DELETE FROM webhookd.work
    WHERE event_id = :id AND consumer = 'handlers' AND pg_current_xact_id()::text = :transaction
    RETURNING event_id, status, attempts + 1 AS attempt, since, clock_timestamp() AS at
), audit AS (
    INSERT INTO webhookd.audit (event_id, at, from_status, to_status, actor, attempt)
    SELECT event_id, at, status, 'processed', 'worker', attempt FROM ended
)
SELECT extract(epoch FROM at - since)::float8 AS seconds FROM ended;

-- name: process_events(lock_timeout, ids, entity_names, accounts, entity_ids, facts)
-- Folds facts of many events into the timeline, and ends the work of the events in `ids`, for which there is no handler. All of this is
-- one statement and one transaction. Returns the events whose work the statement ended, and for each event the seconds that
-- mark_processed returns. An event that is missing in the result had ended, or died, before.
-- The statement locks rows of work in the order of their ids, and then rows of the timeline in the order in which the caller sorted them.
-- So two such statements cannot deadlock. `impatient` sets the lock timeout before each lock is taken, because every row that is locked
-- or written goes through a join with `impatient`.
WITH impatient AS MATERIALIZED (
    SELECT set_config('lock_timeout', :lock_timeout, true)
), open AS MATERIALIZED (
    SELECT w.event_id
    FROM impatient, webhookd.work w
    WHERE w.event_id = ANY(:ids::uuid[]) AND w.consumer = 'handlers' AND w.status NOT IN ('dead', 'discarded')
    ORDER BY w.event_id
    FOR UPDATE OF w
), locked AS MATERIALIZED (
    SELECT count(*) FROM open
), kept AS MATERIALIZED (
    SELECT f.*
    FROM impatient, locked, unnest(:entity_names::text[], :accounts::text[], :entity_ids::text[], :facts::text[])
        WITH ORDINALITY AS f (entity_name, account, entity_id, facts, position)
), folded AS (
    INSERT INTO webhookd.timeline AS t (entity_name, account, entity_id, facts)
    SELECT entity_name, account, entity_id, facts::jsonb FROM kept ORDER BY position
    ON CONFLICT (entity_name, account, entity_id) DO UPDATE SET facts = webhookd.settle(webhookd.fold(t.facts, excluded.facts))
), ended AS (
    DELETE FROM webhookd.work
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM open)) AND consumer = 'handlers'
    RETURNING event_id, status, attempts + 1 AS attempt, since, clock_timestamp() AS at
), audit AS (
    INSERT INTO webhookd.audit (event_id, at, from_status, to_status, actor, attempt)
    SELECT event_id, at, status, 'processed', 'worker', attempt FROM ended
)
SELECT event_id AS id, attempt, extract(epoch FROM at - since)::float8 AS seconds FROM ended;

-- name: mark_retrying(reason, delay, id, attempts, redriven_at, from_status)^
-- Records a failed attempt that another attempt will follow. The sweeper sends the work again in `delay` seconds. If the work has changed
-- since it was claimed, the statement changes nothing and returns no row. Another attempt changes the number of attempts. A redrive,
-- which counts anew, changes `redriven_at`.
WITH changed AS (
    UPDATE webhookd.work
    SET status = 'retrying', attempts = attempts + 1, sends = 0, fresh = false, last_error = :reason,
        due = now() + make_interval(secs => :delay)
    WHERE event_id = :id AND consumer = 'handlers' AND attempts = :attempts
        AND redriven_at IS NOT DISTINCT FROM :redriven_at::timestamptz AND status NOT IN ('dead', 'discarded')
    RETURNING event_id, attempts
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, attempt, reason)
    SELECT event_id, :from_status, 'retrying', 'worker', attempts, :reason FROM changed
)
SELECT attempts FROM changed;

-- name: wait_for_details(reason, account, transaction_id, id, attempts, redriven_at, from_status, delay, first)^
-- Records that an event waits for the details of its transaction: an attempt that has ended for lack of them, and that does not count. The
-- provider is asked at once. In `delay` seconds, the work is due in any case, so that no lost wake can lose it. Changes nothing, like
-- mark_retrying, if the work has changed. `first`: whether the wait begins, which the audit trail records.
-- A wait before a redrive, and a wait that ended, begin anew.
WITH changed AS (
    UPDATE webhookd.work
    SET status = 'retrying', sends = 0, fresh = false, last_error = :reason, due = now() + make_interval(secs => :delay)
    WHERE event_id = :id AND consumer = 'handlers' AND attempts = :attempts
        AND redriven_at IS NOT DISTINCT FROM :redriven_at::timestamptz AND status NOT IN ('dead', 'discarded')
    RETURNING event_id, attempts
), wanted AS (
    INSERT INTO webhookd.details_wanted AS d (event_id, account, transaction_id, attempts)
    SELECT event_id, :account, :transaction_id, attempts FROM changed
    ORDER BY event_id
    ON CONFLICT (event_id) DO UPDATE SET
        attempts = excluded.attempts,
        since = CASE WHEN d.came_at IS NULL AND d.since >= coalesce(:redriven_at::timestamptz, d.since) THEN d.since ELSE now() END,
        tries = CASE WHEN d.came_at IS NULL AND d.since >= coalesce(:redriven_at::timestamptz, d.since) THEN d.tries ELSE 0 END,
        next_try_at = CASE
            WHEN d.came_at IS NULL AND d.since >= coalesce(:redriven_at::timestamptz, d.since) THEN d.next_try_at ELSE now()
        END,
        came_at = NULL
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason)
    SELECT event_id, :from_status, 'retrying', 'worker', :reason FROM changed WHERE :first::boolean
)
SELECT attempts FROM changed;

-- name: mark_dead(spent, detail, reason, id, attempts, redriven_at, from_status)^
-- Marks work as dead after `spent` more attempts, with the reason. From then on, webhookd must send a copy of the work to the dead-letter
-- queue. If the work has changed since it was claimed, the statement changes nothing, like mark_retrying.
WITH changed AS (
    UPDATE webhookd.work
    SET status = 'dead', attempts = attempts + :spent, last_error = :detail, dead_reason = :reason, due = now(), copy_sent_at = NULL
    WHERE event_id = :id AND consumer = 'handlers' AND attempts = :attempts
        AND redriven_at IS NOT DISTINCT FROM :redriven_at::timestamptz AND status NOT IN ('dead', 'discarded')
    RETURNING event_id, attempts
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, attempt, reason)
    SELECT event_id, :from_status, 'dead', 'worker', attempts, :detail FROM changed
)
SELECT (extract(epoch FROM now()) * 1000000)::bigint AS died FROM changed;

-- name: attempts_begun(id)$
-- Returns how many attempts at this work have begun and not ended. Each of these attempts may have killed its process. Returns nothing if
-- somebody holds the work.
SELECT s.begun
FROM webhookd.suspects s
JOIN webhookd.work w ON w.event_id = :id AND w.consumer = 'handlers' AND w.attempts = s.attempts
    AND w.redriven_at IS NOT DISTINCT FROM s.redriven_at
WHERE s.event_id = :id AND s.consumer = 'handlers'
FOR UPDATE OF w SKIP LOCKED;

-- name: begin_attempt(id, attempts, redriven_at)$
-- Counts another attempt at work that another transaction has locked. Returns how many attempts have begun and not ended.
INSERT INTO webhookd.suspects AS s (event_id, consumer, attempts, redriven_at, begun) VALUES (:id, 'handlers', :attempts, :redriven_at, 1)
ON CONFLICT (event_id, consumer) DO UPDATE SET
    begun = CASE
        WHEN s.attempts = excluded.attempts AND s.redriven_at IS NOT DISTINCT FROM excluded.redriven_at THEN s.begun + 1 ELSE 1
    END,
    attempts = excluded.attempts, redriven_at = excluded.redriven_at
RETURNING begun;

-- name: take_back_attempt(id, attempts, redriven_at)!
-- Removes one attempt from the count. The attempt has ended, in whatever way, so it has not killed its process. If this statement runs
-- late, the count may belong to another number of attempts or to another redrive. Then the count stays as it is.
UPDATE webhookd.suspects SET begun = greatest(begun - 1, 0)
WHERE event_id = :id AND consumer = 'handlers' AND attempts = :attempts AND redriven_at IS NOT DISTINCT FROM :redriven_at::timestamptz;

-- name: backlog()^
-- Returns the size of the outbox, with each lane counted up to 100,000. Also returns for how many seconds the oldest unfinished event has
-- been unfinished (NULL if all events have ended), and the oldest one that does not wait for the delay of a retry. The latter looks at the
-- 10,000 oldest events. If all of them wait for retries, it returns the age of the youngest of them, because those behind are younger.
SELECT
    (SELECT count(*) FROM (SELECT FROM webhookd.work WHERE status = 'received' AND fresh LIMIT 100000) AS fresh)
        + (SELECT count(*) FROM (
            SELECT FROM webhookd.work WHERE status = 'received' AND NOT fresh AND attempts <= 1 LIMIT 100000
        ) AS rest)
        + (SELECT count(*) FROM (
            SELECT FROM webhookd.work WHERE status = 'received' AND NOT fresh AND attempts > 1 LIMIT 100000
        ) AS later) AS outbox,
    (SELECT extract(epoch FROM clock_timestamp() - since)::float8 FROM webhookd.work
     WHERE (status IN ('received', 'queued', 'retrying')) IS TRUE ORDER BY since LIMIT 1) AS oldest,
    (SELECT extract(epoch FROM clock_timestamp() - coalesce(
        min(since) FILTER (WHERE NOT waits), CASE WHEN count(*) = 10000 THEN max(since) END
    ))::float8 FROM (
        SELECT since, status = 'retrying' AND due > now() AS waits FROM webhookd.work
        WHERE (status IN ('received', 'queued', 'retrying')) IS TRUE ORDER BY since LIMIT 10000
    ) AS first) AS overdue;

-- name: audit_trail(id)
-- Returns what happened to an event, with its receipt. The row of the receipt comes from the ledger if the audit trail has no such row.
-- The receipt belongs to no consumer.
SELECT
    received_at AS at, NULL AS from_status, 'received' AS to_status, 'receiver' AS actor, NULL::integer AS attempt, NULL AS reason,
    NULL AS consumer
FROM webhookd.ledger
WHERE id = :id AND NOT EXISTS (SELECT FROM webhookd.audit WHERE event_id = :id AND from_status IS NULL)
UNION ALL
SELECT
    at, from_status, to_status, actor, attempt, reason,
    CASE WHEN from_status IS NOT NULL THEN coalesce(consumer, 'handlers') END AS consumer
FROM webhookd.audit
WHERE event_id = :id
ORDER BY at;
