-- The searches and the list of the quarantine look at `looked` events or bodies from a cursor on, the newest first. They return at most
-- `limit` of these rows, namely rows that the filters choose. So the work of a call has a bound, whatever the filters are. There is
-- always a row. `last_at` and `last_id` are the cursor of the row that was looked at last, NULL if the end was reached. The other
-- columns are NULL if nothing was chosen.

-- name: search_events(below, from_id, wanted, looked, limit)
-- Searches all events, or the events of one entity, invoice or reference, with ids from `from_id` to below `below`. `from_id` ends the
-- search outside the scan. With old statistics, PostgreSQL assumes that a range of ids has few events, and would read and sort the whole
-- range.
WITH found AS MATERIALIZED (
    SELECT * FROM webhookd.ledger l
    WHERE id < :below::uuid AND {indexed_filters}
    ORDER BY id DESC
    LIMIT :looked::integer
), chosen AS MATERIALIZED (
    SELECT l.id
    FROM found l
    LEFT JOIN LATERAL (
        SELECT status FROM webhookd.work WHERE event_id = l.id AND consumer = 'handlers' OFFSET 0
    ) AS w ON true
    WHERE l.id >= :from_id::uuid AND {other_filters}
    ORDER BY l.id DESC
    LIMIT :limit
)
SELECT last.at AS last_at, last.id AS last_id, e.*
FROM (SELECT) AS one
LEFT JOIN (SELECT received_at AS at, id FROM found ORDER BY id DESC OFFSET :looked::integer - 1 LIMIT 1) AS last
    ON last.id >= :from_id::uuid
LEFT JOIN (chosen JOIN webhookd.events e USING (id)) ON true
ORDER BY e.id DESC;

-- name: search_open(unfinished, dead, before, below, wanted, looked, limit)
-- Searches the events that have not ended, by the time when they began to wait (the receipt or the redrive), and the dead events, by
-- their death.
WITH found AS MATERIALIZED (
    SELECT * FROM (
        (
            SELECT event_id, status, since AS at
            FROM webhookd.work
            WHERE :unfinished::boolean AND (status IN ('received', 'queued', 'retrying')) IS TRUE
                AND since <= :before::timestamptz AND (since, event_id) < (:before::timestamptz, :below::uuid)
            ORDER BY since DESC, event_id DESC
            LIMIT :looked::integer
        ) UNION ALL (
            SELECT event_id, status, due AS at
            FROM webhookd.work
            WHERE :dead::boolean AND status = 'dead'
                AND due <= :before::timestamptz AND (due, event_id) < (:before::timestamptz, :below::uuid)
            ORDER BY due DESC, event_id DESC
            LIMIT :looked::integer
        ) UNION ALL (
            SELECT event_id, status, due AS at
            FROM webhookd.work
            WHERE :dead::boolean AND status = 'discarded'
                AND due <= :before::timestamptz AND (due, event_id) < (:before::timestamptz, :below::uuid)
            ORDER BY due DESC, event_id DESC
            LIMIT :looked::integer
        )
    ) AS each
    ORDER BY at DESC, event_id DESC
    LIMIT :looked::integer
), chosen AS MATERIALIZED (
    SELECT l.id, w.at
    FROM found w CROSS JOIN LATERAL (SELECT * FROM webhookd.ledger WHERE id = w.event_id OFFSET 0) AS l
    WHERE {other_filters}
    ORDER BY at DESC, l.id DESC
    LIMIT :limit
)
SELECT last.at AS last_at, last.id AS last_id, e.*
FROM (SELECT) AS one
LEFT JOIN (SELECT at, event_id AS id FROM found ORDER BY at DESC, event_id DESC OFFSET :looked::integer - 1 LIMIT 1) AS last ON true
LEFT JOIN (chosen JOIN webhookd.events e USING (id)) ON true
ORDER BY chosen.at DESC, e.id DESC;

-- name: search_key(key, low, high, event_id, notification_only, also, below, wanted, looked, limit)
-- Searches the events that have `key`, in lower case, as a notification id. Unless `notification_only` is true, also searches the event
-- `event_id`, and the events that have `key` as the entity's id, the invoice number or the merchant's reference. If `also` is given, an
-- event must also have `also` as one of these ids, numbers or references.
-- `low` and `high` are the bounds of the notification keys of `key` in any account.
WITH ids AS MATERIALIZED (
    SELECT id FROM webhookd.ledger
    WHERE notification_key BETWEEN :low::uuid AND :high::uuid AND notification_id = lower(:key::text)
    UNION
    SELECT event_id FROM webhookd.notification_aliases
    WHERE notification_key BETWEEN :low::uuid AND :high::uuid AND notification_id = lower(:key::text)
    UNION
    SELECT :event_id::uuid WHERE NOT :notification_only::boolean AND :event_id::uuid IS NOT NULL
    UNION
    (
        SELECT id FROM webhookd.ledger
        WHERE NOT :notification_only::boolean AND entity_id = :key AND id < :below::uuid ORDER BY id DESC LIMIT :looked::integer
    )
    UNION
    (
        SELECT id FROM webhookd.ledger
        WHERE NOT :notification_only::boolean AND invoice_number = :key AND id < :below::uuid
        ORDER BY id DESC
        LIMIT :looked::integer
    )
    UNION
    (
        SELECT id FROM webhookd.ledger
        WHERE NOT :notification_only::boolean AND merchant_reference = :key AND id < :below::uuid
        ORDER BY id DESC
        LIMIT :looked::integer
    )
), found AS MATERIALIZED (
    SELECT * FROM webhookd.ledger l
    WHERE l.id = ANY(ARRAY(SELECT id FROM ids WHERE id < :below::uuid ORDER BY id DESC LIMIT :looked::integer))
), chosen AS MATERIALIZED (
    SELECT l.id
    FROM found l
    LEFT JOIN LATERAL (
        SELECT status FROM webhookd.work WHERE event_id = l.id AND consumer = 'handlers' OFFSET 0
    ) AS w ON true
    WHERE {indexed_filters} AND {other_filters}
        AND (
            :also::text IS NULL OR lower(:also) IN (l.id::text, l.notification_id)
            OR :also IN (l.entity_id, l.invoice_number, l.merchant_reference)
        )
    ORDER BY l.id DESC
    LIMIT :limit
)
SELECT last.at AS last_at, last.id AS last_id, e.*
FROM (SELECT) AS one
LEFT JOIN (SELECT received_at AS at, id FROM found ORDER BY id DESC OFFSET :looked::integer - 1 LIMIT 1) AS last ON true
LEFT JOIN (chosen JOIN webhookd.events e USING (id)) ON true
ORDER BY e.id DESC;

-- name: events_of_entity(account, entity_name, entity_id, limit)
-- Returns the newest events of an entity, the newest first. If `entity_name` is NULL, returns the events of every entity that has the id.
-- With coalesce(), the join with the kinds stays a left join. So PostgreSQL reads the entity's events in their order, and does not begin
-- with the kinds of the account.
SELECT * FROM webhookd.events
WHERE entity_id = :entity_id AND coalesce(account, '') = :account AND (:entity_name::text IS NULL OR coalesce(entity_name, '') = :entity_name)
ORDER BY id DESC
LIMIT :limit;

-- name: aliases_of_event(id)
SELECT notification_id, received_at FROM webhookd.notification_aliases WHERE event_id = :id ORDER BY received_at LIMIT 100;

-- name: lock_work(id)!
-- Runs before a retry, in the transaction of the retry. Fails at once if a worker has the event in hand.
SELECT FROM webhookd.work WHERE event_id = :id FOR UPDATE NOWAIT;

-- name: retry_now(id, actor, reason)!
-- Makes the next attempt due at once, for an event that waits for its next attempt. The caller has locked the event's work.
WITH changed AS (
    UPDATE webhookd.work SET due = now()
    WHERE event_id = :id AND consumer = 'handlers' AND status NOT IN ('dead', 'discarded', 'received', 'queued')
    RETURNING event_id
)
INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason)
SELECT event_id, 'retrying', 'retrying', :actor, :reason FROM changed;

-- name: choose_finished(after_id, below, wanted, imported, until, looked, limit)
-- Returns a page of a replay: ended events with ids above `after_id` and below `below`, the oldest first. This statement looks and
-- returns like the searches. `below` ends the choice outside the scan, as `from_id` does in search_events. If `imported` is false, the
-- choice leaves out events that ended by an import: another program has processed them, and no handler ran.
WITH found AS MATERIALIZED (
    SELECT * FROM webhookd.ledger l
    WHERE id > :after_id::uuid AND {indexed_filters}
    ORDER BY id
    LIMIT :looked::integer
), filtered AS MATERIALIZED (
    SELECT l.id
    FROM found l
    LEFT JOIN LATERAL (
        SELECT status FROM webhookd.work WHERE event_id = l.id AND consumer = 'handlers' OFFSET 0
    ) AS w ON true
    WHERE l.id < :below::uuid AND coalesce(w.status = 'dead', true) AND {other_filters}
), chosen AS (
    SELECT e.id, e.event_type, e.dead_reason, e.status, e.finished_at, i.imported
    FROM filtered JOIN webhookd.events e USING (id) CROSS JOIN LATERAL (
        SELECT e.status = 'processed' AND coalesce((
            SELECT a.actor = 'import' FROM webhookd.audit a
            WHERE a.event_id = e.id AND a.to_status = 'processed'
            ORDER BY a.at DESC
            LIMIT 1
        ), false) AS imported
    ) AS i
    WHERE coalesce(e.finished_at, e.received_at) <= :until
        AND (:imported::boolean OR NOT i.imported)
    ORDER BY e.id
    LIMIT :limit
)
SELECT last.id AS last_id, chosen.*
FROM (SELECT) AS one
LEFT JOIN (SELECT id FROM found ORDER BY id OFFSET :looked::integer - 1 LIMIT 1) AS last ON last.id < :below::uuid
LEFT JOIN chosen ON true
ORDER BY chosen.id;

-- name: add_operation(id, kind, dry_run, actor, reason, selection, rate, max_events)^
-- Whoever finds `held_until` in the past takes an operation. The time of a replay to a destination lies 1,000 years later, so that 0.3.0
-- never takes it: that release knows no destinations, and would run the handlers of the events again.
INSERT INTO webhookd.operations (id, kind, dry_run, actor, reason, selection, rate, max_events, held_until)
SELECT
    :id, :kind, :dry_run, :actor, :reason, s.selection, :rate, :max_events,
    CASE WHEN s.selection->>'destination' IS NULL THEN '-infinity' ELSE now() + interval '1000 years' END
FROM (SELECT :selection::text::jsonb AS selection) AS s
RETURNING *;

-- name: operation(id)^
-- `idle`: no process holds the operation now.
SELECT *, held_until < now() + CASE WHEN selection->>'destination' IS NULL THEN interval '0' ELSE interval '1000 years' END AS idle
FROM webhookd.operations WHERE id = :id;

-- name: list_operations(below, limit)
SELECT *, held_until < now() + CASE WHEN selection->>'destination' IS NULL THEN interval '0' ELSE interval '1000 years' END AS idle
FROM webhookd.operations WHERE id < :below::uuid ORDER BY id DESC LIMIT :limit;

-- name: cancel_operation(id)^
UPDATE webhookd.operations SET state = 'cancelled', finished_at = now(), updated_at = now(), held_by = NULL
WHERE id = :id AND finished_at IS NULL
RETURNING *;

-- name: hold_operations(holder, seconds, destinations, limit)
-- Takes or keeps operations that have not ended, for `seconds`. Of the replays to destinations, takes and keeps those to the `destinations`
-- that the process knows. add_operation says why their times lie 1,000 years later.
-- There are four lanes of up to `limit` operations each, so that no kind of operation waits for the end of another: replays to destinations,
-- and the other operations; of both, those that wait (`held_by`) apart from the rest. What waits is looked at in turn. Of the rest, the
-- oldest orders go first.
UPDATE webhookd.operations
SET holder = :holder::uuid, held_until = now() + make_interval(secs => :seconds::float8)
    + CASE WHEN selection->>'destination' IS NULL THEN interval '0' ELSE interval '1000 years' END
WHERE id = ANY(ARRAY(
    SELECT o.id
    FROM (VALUES (false, false), (false, true), (true, false), (true, true)) AS lane (waits, sends)
    CROSS JOIN LATERAL (
        SELECT id FROM webhookd.operations
        WHERE finished_at IS NULL AND lane.waits = (held_by IS NOT NULL) AND lane.sends = (selection->>'destination' IS NOT NULL)
            AND (
                holder = :holder::uuid
                OR held_until < now() + CASE WHEN lane.sends THEN interval '1000 years' ELSE interval '0' END
            )
            AND (NOT lane.sends OR selection->>'destination' = ANY(:destinations::text[]))
        ORDER BY CASE WHEN lane.waits THEN updated_at ELSE created_at END
        LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ) AS o
))
RETURNING *;

-- name: let_go_of_operations(holder)!
UPDATE webhookd.operations
SET held_until = CASE WHEN selection->>'destination' IS NULL THEN '-infinity' ELSE now() + interval '1000 years' END
WHERE holder = :holder::uuid AND finished_at IS NULL;

-- name: advance_operation(id, holder, state, total, done, skipped, held_by, pause, error, event_types, reasons, after_at, after_id, ended)^
-- Records how far an operation has come, in the transaction of the operation's changes. Returns no row if the operation was cancelled, or
-- if another process holds it. If `held_by` is given, the operation waits: releases it for `pause` seconds, so that it takes no place.
UPDATE webhookd.operations
SET state = :state, total = :total, done = :done, skipped = :skipped, held_by = :held_by, error = :error,
    event_types = :event_types::text::jsonb, reasons = :reasons::text::jsonb, after_at = :after_at, after_id = :after_id,
    updated_at = now(), finished_at = CASE WHEN :ended::boolean THEN now() END,
    holder = CASE WHEN :held_by::text IS NULL THEN holder END,
    held_until = CASE WHEN :held_by::text IS NULL THEN held_until ELSE now() + make_interval(secs => :pause::float8)
        + CASE WHEN selection->>'destination' IS NULL THEN interval '0' ELSE interval '1000 years' END END
WHERE id = :id AND holder = :holder::uuid AND finished_at IS NULL
RETURNING id;

-- name: remove_operations(age)!
DELETE FROM webhookd.operations WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.operations
    WHERE finished_at < now() - make_interval(secs => :age::float8)
    ORDER BY id
    FOR UPDATE SKIP LOCKED
));

-- name: list_quarantine(below, from_id, looked, state, reason, wanted, limit)
-- Lists bodies with ids from `from_id` to below `below`. `state` is waiting, released or discarded. If `state` is waiting, the statement
-- looks only at bodies that wait.
WITH found AS MATERIALIZED (
    SELECT id, account, reason, received_at AS at, handled_at, outcome
    FROM webhookd.quarantine
    WHERE id < :below::uuid AND (:state::text <> 'waiting' OR handled_at IS NULL)
    ORDER BY id DESC
    LIMIT :looked::integer
), chosen AS MATERIALIZED (
    SELECT id FROM found
    WHERE id >= :from_id::uuid
        AND ((:state = 'waiting' AND handled_at IS NULL) OR (:state <> 'waiting' AND outcome = :state))
        AND (:reason::text IS NULL OR reason = :reason)
        AND (:wanted.account::text IS NULL OR account = :wanted.account)
        AND (:wanted.received_from::timestamptz IS NULL OR at >= :wanted.received_from)
        AND (:wanted.received_to::timestamptz IS NULL OR at < :wanted.received_to)
    ORDER BY id DESC
    LIMIT :limit
)
SELECT
    last.at AS last_at, last.id AS last_id, q.id, q.account, q.reason, q.detail, q.received_at, q.times_received,
    length(q.body) AS size, coalesce(q.outcome, 'waiting') AS state, q.event_id, q.handled_at, q.handled_by, q.note
FROM (SELECT) AS one
LEFT JOIN (SELECT at, id FROM found ORDER BY id DESC OFFSET :looked::integer - 1 LIMIT 1) AS last ON last.id >= :from_id::uuid
LEFT JOIN (
    chosen CROSS JOIN LATERAL (SELECT * FROM webhookd.quarantine WHERE id = chosen.id OFFSET 0) AS q
) ON true
ORDER BY q.id DESC;

-- name: quarantined(id)^
SELECT *, length(body) AS size, coalesce(outcome, 'waiting') AS state FROM webhookd.quarantine WHERE id = :id;

-- name: lock_quarantined(id)^
-- Like quarantined, for a caller that releases the body. The lock keeps others from discarding the body meanwhile.
SELECT *, length(body) AS size, coalesce(outcome, 'waiting') AS state FROM webhookd.quarantine WHERE id = :id FOR UPDATE;

-- name: handle_quarantine(id, outcome, actor, note, event_id)^
-- Marks a waiting body in quarantine as released or discarded. Returns no row if the body was handled before.
UPDATE webhookd.quarantine SET handled_at = now(), handled_by = :actor, outcome = :outcome, note = :note, event_id = :event_id
WHERE id = :id AND handled_at IS NULL
RETURNING id;

-- name: transaction(account, id)^
SELECT * FROM webhookd.transactions WHERE account = :account AND transaction_id = :id;

-- name: subscription(account, id)^
SELECT * FROM webhookd.subscriptions WHERE account = :account AND subscription_id = :id;

-- name: customer(account, id)^
SELECT * FROM webhookd.customers WHERE account = :account AND customer_profile_id = :id;

-- name: payment_profile(account, id)^
SELECT * FROM webhookd.payment_profiles WHERE account = :account AND payment_profile_id = :id;

-- name: known_entities(account, names, ids)
-- Returns the given entities that have a timeline (a row, an event, or the provider's report), in the order given. The kinds are joined as in events_of_entity.
-- Scalar subqueries stand here instead of EXISTS, because for EXISTS PostgreSQL may read and hash a whole table.
SELECT n.entity_name, n.entity_id
FROM unnest(:names::text[], :ids::text[]) WITH ORDINALITY AS n (entity_name, entity_id, position)
WHERE coalesce(
    (
        SELECT true FROM webhookd.timeline t
        WHERE t.entity_name = n.entity_name AND t.account = :account AND t.entity_id = n.entity_id
    ),
    (
        SELECT true FROM webhookd.provider_transactions p
        WHERE n.entity_name = 'transaction' AND p.account = :account AND p.transaction_id = n.entity_id
    ),
    (
        SELECT true FROM webhookd.provider_subscriptions s
        WHERE n.entity_name = 'subscription' AND s.account = :account AND s.subscription_id = n.entity_id
    ),
    (
        SELECT true FROM webhookd.ledger l LEFT JOIN webhookd.kinds k ON k.id = l.kind
        WHERE l.entity_id = n.entity_id AND coalesce(k.account, '') = :account AND coalesce(k.entity_name, '') = n.entity_name
        LIMIT 1
    )
)
ORDER BY n.position;

-- name: add_statistics(steps, measures, event_types, counts)!
-- Adds the counts of a process to the present step of each length in `steps`. `counts` are arrays as text.
INSERT INTO webhookd.statistics AS s (step, at, measure, event_type, counts)
SELECT step, webhookd.step(step, now()) AS at, measure, event_type, counts::bigint[]
FROM unnest(:steps::integer[]) AS step, unnest(:measures::text[], :event_types::text[], :counts::text[]) AS c (measure, event_type, counts)
ORDER BY step, measure, event_type
ON CONFLICT (step, at, measure, event_type) DO UPDATE SET counts = webhookd.add_counts(s.counts, excluded.counts);

-- name: add_gauges(steps, gauges, values)!
-- Keeps the highest value of each gauge in the present step of each length in `steps`.
INSERT INTO webhookd.statistics_gauges AS g (step, at, gauge, value)
SELECT step, webhookd.step(step, now()) AS at, gauge, value
FROM unnest(:steps::integer[]) AS step, unnest(:gauges::text[], :values::float8[]) AS v (gauge, value)
ORDER BY step, gauge
ON CONFLICT (step, at, gauge) DO UPDATE SET value = greatest(g.value, excluded.value);

-- name: statistics(step, window, longer, limit)^
-- Returns the last `window` seconds, by steps of the length `step`. This is one statement and one row with JSON, because each round trip
-- and each row costs time.
-- `series` has for each step the counts over all event types, and the histograms, by measure. The index alone separates these rows from
-- the rows of each type, of which there are ten times as many.
-- `types` has the sum of each measure by event type. PostgreSQL keeps every count once for each length of step. So the statement
-- reads most of the window from steps of the length `longer`, which have far fewer rows with the same counts. The window seldom
-- begins together with a longer step. For the time before the first longer step begins, the statement reads the short steps.
-- `longer` is NULL if `step` is the greatest length.
-- `gauges` has the gauges of each step, but not the gauges of the dead-letter queue, which no chart shows. The name of a step is its
-- beginning, in seconds since 1970.
-- The other columns are the number of events in each status but processed, and the number of bodies that wait in quarantine. Each is
-- counted up to `limit`. The lanes of a status are counted apart, each up to `limit`, because the indexes separate them.
SELECT
    now() AS now,
    (
        SELECT json_object_agg(extract(epoch FROM at)::bigint, counts)::text
        FROM (
            SELECT at, json_object_agg(measure, counts) AS counts
            FROM webhookd.statistics
            WHERE step = :step AND at > now() - make_interval(secs => :window::float8) AND event_type = ''
            GROUP BY at
        ) AS steps
    ) AS series,
    (
        SELECT json_object_agg(event_type, counts)::text
        FROM (
            SELECT event_type, json_object_agg(measure, count) AS counts
            FROM (
                SELECT event_type, measure, sum(counts[1])::bigint AS count
                FROM (
                    SELECT event_type, measure, counts
                    FROM webhookd.statistics
                    WHERE step = :step AND at > now() - make_interval(secs => :window::float8) AND event_type <> '' AND at < coalesce(
                        webhookd.step(:longer::integer, now() - make_interval(secs => :window::float8))
                            + make_interval(secs => :longer::integer),
                        'infinity'
                    )
                    UNION ALL
                    SELECT event_type, measure, counts
                    FROM webhookd.statistics
                    WHERE step = :longer::integer AND event_type <> ''
                        AND at >= webhookd.step(:longer::integer, now() - make_interval(secs => :window::float8))
                            + make_interval(secs => :longer::integer)
                ) AS counted
                GROUP BY event_type, measure
            ) AS sums
            GROUP BY event_type
        ) AS types
    ) AS types,
    (
        SELECT json_object_agg(extract(epoch FROM at)::bigint, gauges)::text
        FROM (
            SELECT at, json_object_agg(gauge, value) AS gauges
            FROM webhookd.statistics_gauges
            WHERE step = :step AND at > now() - make_interval(secs => :window::float8) AND gauge NOT LIKE 'dead\_letter\_%'
            GROUP BY at
        ) AS steps
    ) AS gauges,
    (SELECT count(*) FROM (
        (SELECT FROM webhookd.work WHERE status = 'received' AND fresh LIMIT :limit) UNION ALL
        (SELECT FROM webhookd.work WHERE status = 'received' AND NOT fresh AND attempts <= 1 LIMIT :limit) UNION ALL
        (SELECT FROM webhookd.work WHERE status = 'received' AND NOT fresh AND attempts > 1 LIMIT :limit)
    ) AS counted) AS received,
    (SELECT count(*) FROM (
        (SELECT FROM webhookd.work WHERE status = 'queued' AND fresh LIMIT :limit) UNION ALL
        (SELECT FROM webhookd.work WHERE status = 'queued' AND NOT fresh LIMIT :limit)
    ) AS counted) AS queued,
    (SELECT count(*) FROM (
        (SELECT FROM webhookd.work WHERE status = 'retrying' AND NOT fresh AND attempts <= 1 LIMIT :limit) UNION ALL
        (SELECT FROM webhookd.work WHERE status = 'retrying' AND NOT fresh AND attempts > 1 LIMIT :limit)
    ) AS counted) AS retrying,
    (SELECT count(*) FROM (SELECT FROM webhookd.work WHERE status = 'dead' LIMIT :limit) AS counted) AS dead,
    (SELECT count(*) FROM (SELECT FROM webhookd.quarantine WHERE handled_at IS NULL LIMIT :limit) AS counted) AS quarantine;

-- name: remove_statistics(step, age)!
DELETE FROM webhookd.statistics WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM webhookd.statistics
    WHERE step = :step AND at < now() - make_interval(secs => :age::float8)
    ORDER BY at, measure, event_type
    FOR UPDATE SKIP LOCKED
));

-- name: remove_gauges(step, age)!
DELETE FROM webhookd.statistics_gauges WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM webhookd.statistics_gauges
    WHERE step = :step AND at < now() - make_interval(secs => :age::float8)
    ORDER BY at, gauge
    FOR UPDATE SKIP LOCKED
));

-- name: session_ended(id)$
SELECT EXISTS (SELECT FROM webhookd.ended_sessions WHERE id = :id);

-- name: end_session(id, seconds)!
-- Ends a session, and removes up to 100 ended sessions that have expired by themselves.
WITH forgotten AS (
    DELETE FROM webhookd.ended_sessions
    WHERE id = ANY(ARRAY(SELECT id FROM webhookd.ended_sessions WHERE kept_until < now() ORDER BY kept_until LIMIT 100 FOR UPDATE SKIP LOCKED))
)
INSERT INTO webhookd.ended_sessions (id, kept_until) VALUES (:id, now() + make_interval(secs => :seconds::float8)) ON CONFLICT DO NOTHING;
