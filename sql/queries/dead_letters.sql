-- name: revive_event(id, died, actor, reason)^
-- Starts dead work anew, with all its attempts, by way of the outbox. Somebody has moved the dead-letter copy of the work back to the
-- queue. The statement does this only if the work died at the time in the copy (`died`). So a second delivery of that copy does not
-- revive work that has died again since.
WITH changed AS (
    UPDATE webhookd.work
    SET status = 'received', attempts = 0, sends = 0, fresh = false, dead_reason = NULL, copy_sent_at = NULL, redriven_at = now(),
        since = now(), due = now()
    WHERE event_id = :id AND consumer = 'handlers' AND status NOT IN ('received', 'queued', 'retrying', 'discarded')
        AND (extract(epoch FROM due) * 1000000)::bigint = :died
    RETURNING event_id
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason)
    SELECT event_id, 'dead', 'received', :actor, :reason FROM changed
)
SELECT event_id FROM changed;

-- name: put_back(ids, reason)$
-- Makes work due for sending again, if SQS moved its message to the dead-letter queue and the work has not ended. The work is sent at
-- once, or when its retry is due. The statement puts back all the work of `ids`, or nothing if some of the work has ended since or
-- somebody holds it: held work may be ending just now. Returns whether the work was put back.
WITH open AS MATERIALIZED (
    SELECT event_id, status FROM webhookd.work
    WHERE event_id = ANY(:ids::uuid[]) AND consumer = 'handlers' AND status NOT IN ('dead', 'discarded')
    ORDER BY event_id
    FOR UPDATE SKIP LOCKED
), whole AS MATERIALIZED (
    SELECT count(*) = cardinality(:ids::uuid[]) AS is_whole FROM open
), changed AS (
    -- The UPDATE moves the `due` of a retry. A sweeper that chose the retry before then has an old `due`, and records no send.
    UPDATE webhookd.work
    SET status = CASE status WHEN 'retrying' THEN status ELSE 'received' END, fresh = false,
        due = CASE status WHEN 'retrying' THEN due + interval '1 microsecond' ELSE now() END
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM open)) AND consumer = 'handlers' AND (SELECT is_whole FROM whole)
    RETURNING event_id, status
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason)
    SELECT event_id, open.status, changed.status, 'dead-letter reader', :reason FROM open JOIN changed USING (event_id)
)
SELECT is_whole FROM whole;

-- name: secret(name)$
SELECT value FROM webhookd.secrets WHERE name = :name;

-- name: states_of_events(ids)
SELECT
    l.id, k.account, k.event_type, webhookd.status_of(w.status) AS status,
    w.attempts, w.redriven_at, w.dead_reason, l.traceparent,
    w.copy_sent_at IS NOT NULL AS dead_letter_sent, w.discarded_at IS NOT NULL AS discarded,
    CASE WHEN w.status IN ('dead', 'discarded') THEN (extract(epoch FROM w.due) * 1000000)::bigint END AS died
FROM webhookd.ledger l
LEFT JOIN webhookd.kinds k ON k.id = l.kind
LEFT JOIN webhookd.work w ON w.event_id = l.id AND w.event_id = ANY(:ids::uuid[]) AND w.consumer = 'handlers'
WHERE l.id = ANY(:ids::uuid[]);

-- name: owed_dead_letters(grace, limit)
-- Returns dead events whose copy has not reached the dead-letter queue within `grace` seconds of their death.
WITH owed AS MATERIALIZED (
    SELECT event_id, dead_reason, due
    FROM webhookd.work
    WHERE status = 'dead' AND copy_sent_at IS NULL AND due <= now() - make_interval(secs => :grace)
    ORDER BY due
    LIMIT :limit
)
SELECT l.id, k.account, k.event_type, owed.dead_reason, l.traceparent, (extract(epoch FROM owed.due) * 1000000)::bigint AS died
FROM owed CROSS JOIN LATERAL (SELECT * FROM webhookd.ledger WHERE id = owed.event_id OFFSET 0) AS l
LEFT JOIN webhookd.kinds k ON k.id = l.kind
ORDER BY owed.due;

-- name: mark_dead_letter_sent(ids)!
UPDATE webhookd.work SET copy_sent_at = now()
WHERE consumer = 'handlers' AND event_id = ANY(ARRAY(
    SELECT event_id FROM webhookd.work
    WHERE event_id = ANY(:ids::uuid[]) AND consumer = 'handlers' AND status NOT IN ('received', 'queued', 'retrying')
    ORDER BY event_id
    FOR UPDATE
));

-- name: count_dead(limit)$
-- Returns how many dead events have a copy in the dead-letter queue. Returns NULL if more than `limit` events are dead, with or without a
-- copy.
SELECT CASE WHEN count(*) <= :limit::integer THEN count(sent_at) END
FROM (
    SELECT copy_sent_at AS sent_at FROM webhookd.work WHERE status = 'dead' LIMIT :limit::integer + 1
) AS counted;

-- name: forbid_bitmaps()!
-- Holds for the transaction. If the statistics know of few dead events, owe_dead_letters would use a bitmap, and read all dead events for
-- one page.
SET LOCAL enable_bitmapscan = off;

-- name: owe_dead_letters(ids, settled, after_death, after_id, looked)^
-- Looks at `looked` dead events after a cursor, in the order of their deaths. `ids` are the events whose copies were found; no other copy
-- was found in the queue. For an event that is not among `ids`, the statement clears `copy_sent_at`, so that webhookd sends the copy
-- again. Copies that were sent within the last `settled` seconds stay as they are, because the queue may not show them yet. `last_at` and
-- `last_id` are the cursor of the row that was looked at last, NULL at the end.
WITH page AS MATERIALIZED (
    SELECT event_id, due, copy_sent_at
    FROM webhookd.work
    WHERE status = 'dead' AND due >= :after_death::timestamptz AND (due, event_id) > (:after_death::timestamptz, :after_id::uuid)
    ORDER BY due, event_id
    LIMIT :looked::integer
), lost AS MATERIALIZED (
    SELECT event_id FROM webhookd.work
    WHERE event_id = ANY(ARRAY(
        SELECT event_id FROM page
        WHERE copy_sent_at < now() - make_interval(secs => :settled) AND event_id <> ALL(:ids::uuid[])
    ))
        AND consumer = 'handlers' AND status NOT IN ('received', 'queued', 'retrying', 'discarded')
        AND copy_sent_at < now() - make_interval(secs => :settled)
    ORDER BY event_id
    FOR UPDATE
), owed AS (
    UPDATE webhookd.work SET copy_sent_at = NULL
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM lost)) AND consumer = 'handlers'
    RETURNING event_id
)
SELECT (SELECT count(*) FROM owed) AS owed, last.due AS last_at, last.event_id AS last_id
FROM (SELECT) AS one
LEFT JOIN (SELECT due, event_id FROM page ORDER BY due, event_id OFFSET :looked::integer - 1 LIMIT 1) AS last ON true;

-- choose_dead and search_dead look at `looked` dead events from a cursor on, in the order of their deaths. They return at most `limit` of
-- these events, namely events that the filters choose. So the work of a call has a bound, whatever the filters are. There is always a
-- row. `last_at` and `last_id` are the cursor of the row that was looked at last, NULL if the end was reached. The other columns are
-- NULL if no event was chosen.

-- name: choose_dead(after_death, after_id, until, wanted, looked, limit)
-- Chooses dead events that were not discarded, the oldest death first, up to the deaths of `until`. `until` ends the choice outside the
-- scan. With old statistics, PostgreSQL assumes that a range has few events, and would read and sort the whole range.
WITH found AS MATERIALIZED (
    SELECT event_id, due, dead_reason, last_error
    FROM webhookd.work
    WHERE status = 'dead' AND due >= :after_death::timestamptz AND (due, event_id) > (:after_death::timestamptz, :after_id::uuid)
    ORDER BY due, event_id
    LIMIT :looked::integer
), chosen AS (
    SELECT l.id, k.event_type, found.dead_reason, 'dead' AS status, found.due AS finished_at
    FROM found CROSS JOIN LATERAL (SELECT * FROM webhookd.ledger WHERE id = found.event_id OFFSET 0) AS l
    LEFT JOIN webhookd.kinds k ON k.id = l.kind
    WHERE due <= :until::timestamptz AND {dead_filters}
    ORDER BY due, event_id
    LIMIT :limit
)
SELECT last.at AS last_at, last.id AS last_id, chosen.*
FROM (SELECT) AS one
LEFT JOIN (SELECT due AS at, event_id AS id FROM found ORDER BY due, event_id OFFSET :looked::integer - 1 LIMIT 1) AS last
    ON last.at <= :until::timestamptz
LEFT JOIN chosen ON true
ORDER BY chosen.finished_at, chosen.id;

-- name: choose_dead_by_id(ids, after_death, after_id, until, limit)
-- Chooses the events among `ids` that are dead, discarded or not. The order and the cursor are those of choose_dead. The statement looks
-- at all `ids`, so it returns no cursor.
WITH found AS MATERIALIZED (
    SELECT l.id, k.event_type, w.dead_reason, w.status, w.due AS finished_at
    FROM webhookd.work w JOIN webhookd.ledger l ON l.id = w.event_id AND l.id = ANY(:ids::uuid[])
    LEFT JOIN webhookd.kinds k ON k.id = l.kind
    WHERE w.event_id = ANY(:ids::uuid[]) AND w.consumer = 'handlers'
)
SELECT * FROM found
WHERE status IN ('dead', 'discarded') AND finished_at <= :until::timestamptz
    AND (finished_at, id) > (:after_death::timestamptz, :after_id::uuid)
ORDER BY finished_at, id
LIMIT :limit;

-- name: search_dead(discarded, before, below, since, wanted, looked, limit)
-- Searches the dead events that were discarded, or those that were not, the newest death first, back to the deaths of `since`. `since`
-- ends the search outside the scan. A search for events that were not discarded reads no discarded event, however many there are.
WITH found AS MATERIALIZED (
    SELECT * FROM (
        (
            SELECT event_id, due, dead_reason, last_error
            FROM webhookd.work
            WHERE NOT :discarded::boolean AND status = 'dead'
                AND due <= :before::timestamptz AND (due, event_id) < (:before::timestamptz, :below::uuid)
            ORDER BY due DESC, event_id DESC
            LIMIT :looked::integer
        ) UNION ALL (
            SELECT event_id, due, dead_reason, last_error
            FROM webhookd.work
            WHERE :discarded::boolean AND status = 'discarded'
                AND due <= :before::timestamptz AND (due, event_id) < (:before::timestamptz, :below::uuid)
            ORDER BY due DESC, event_id DESC
            LIMIT :looked::integer
        )
    ) AS either
    ORDER BY due DESC, event_id DESC
    LIMIT :looked::integer
), chosen AS MATERIALIZED (
    SELECT l.id
    FROM found CROSS JOIN LATERAL (SELECT * FROM webhookd.ledger WHERE id = found.event_id OFFSET 0) AS l
    WHERE due >= :since::timestamptz AND {dead_filters}
    ORDER BY due DESC, event_id DESC
    LIMIT :limit
)
SELECT last.at AS last_at, last.id AS last_id, e.*
FROM (SELECT) AS one
LEFT JOIN (SELECT due AS at, event_id AS id FROM found ORDER BY due DESC, event_id DESC OFFSET :looked::integer - 1 LIMIT 1) AS last
    ON last.at >= :since::timestamptz
LEFT JOIN (chosen JOIN webhookd.events e USING (id)) ON true
ORDER BY e.finished_at DESC, e.id DESC;

-- name: lock_ends()$
-- Holds for the transaction. Processed events have no work, so they have no row of work that could be locked. So the transactions that
-- start processed events anew, or remove them, run one after the other, and each sees what the others did. The lock is a statement of its
-- own, because a statement that waits for a lock sees the data of the time when the statement began.
SELECT pg_advisory_xact_lock(hashtext('webhookd.ends'));

-- name: redrive_events(actor, reason, forced, ids, ended)$
-- Starts dead events anew, with all their attempts, by way of the outbox. If `forced` is true, also starts processed events anew. `ended`
-- has, for each of `ids`, the time of the end that was chosen. The statement leaves an event alone if it has ended anew since. The
-- statement also leaves an event alone if its body is no longer kept, because such an event would only die of the missing body. Returns
-- the number of events that start anew.
WITH given AS MATERIALIZED (
    SELECT g.id, g.ended
    FROM unnest(:ids::uuid[], :ended::timestamptz[]) AS g (id, ended)
    WHERE EXISTS (SELECT FROM webhookd.bodies b WHERE b.event_id = g.id)
), dead AS MATERIALIZED (
    SELECT w.event_id
    FROM given JOIN webhookd.work w ON w.event_id = given.id AND w.consumer = 'handlers' AND w.due = given.ended
    WHERE w.event_id = ANY(:ids::uuid[]) AND w.status NOT IN ('received', 'queued', 'retrying')
    ORDER BY w.event_id
    FOR UPDATE OF w
), changed AS (
    UPDATE webhookd.work w
    SET status = 'received', attempts = 0, sends = 0, fresh = false, last_error = NULL, dead_reason = NULL,
        copy_sent_at = NULL, discarded_at = NULL, redriven_at = now(), since = now(), due = now()
    WHERE w.event_id = ANY(ARRAY(SELECT event_id FROM dead)) AND w.consumer = 'handlers'
    RETURNING w.event_id
), anew AS (
    INSERT INTO webhookd.work (event_id, consumer, due, redriven_at, fresh)
    SELECT e.id, 'handlers', now(), now(), false
    FROM given JOIN webhookd.events e ON e.id = given.id
    WHERE e.id = ANY(:ids::uuid[]) AND :forced::boolean AND e.status = 'processed' AND e.finished_at IS NOT DISTINCT FROM given.ended
    ORDER BY e.id
    ON CONFLICT DO NOTHING
    RETURNING event_id
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason)
    SELECT event_id, 'dead', 'received', :actor, :reason FROM changed
    UNION ALL
    SELECT event_id, 'processed', 'received', :actor, :reason FROM anew
)
SELECT (SELECT count(*) FROM changed) + (SELECT count(*) FROM anew);

-- name: discard_events(actor, reason, ids, ended)$
-- Discards dead events. `ended` has the death of each event, as in redrive_events. The events stay dead and have no copy in the
-- dead-letter queue any more, and retention no longer keeps them. Returns the number of discarded events.
WITH chosen AS MATERIALIZED (
    SELECT w.event_id
    FROM unnest(:ids::uuid[], :ended::timestamptz[]) AS g (id, ended)
    JOIN webhookd.work w ON w.event_id = g.id AND w.consumer = 'handlers' AND w.due = g.ended
    WHERE w.event_id = ANY(:ids::uuid[]) AND w.status NOT IN ('received', 'queued', 'retrying', 'discarded')
    ORDER BY w.event_id
    FOR UPDATE OF w
), changed AS (
    UPDATE webhookd.work SET status = 'discarded', discarded_at = now()
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM chosen)) AND consumer = 'handlers'
    RETURNING event_id, attempts
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, attempt, reason)
    SELECT event_id, 'dead', 'dead', :actor, attempts, 'discarded' || coalesce(': ' || nullif(:reason, ''), '') FROM changed
)
SELECT count(*) FROM changed;

-- name: traffic(settled, fresh_limit, redriven_limit)^
-- Counts what a redrive must wait for: fresh events that have waited for more than `settled` seconds, and redriven events that have not
-- been tried. Each number is counted up to its limit. Redriven events are counted only if the number of fresh events is below its limit.
-- Of the fresh events, the statement looks at 1,000 of each status, those that are due first.
WITH fresh AS MATERIALIZED (
    SELECT count(*) AS count FROM (
        SELECT FROM (
            (SELECT since FROM webhookd.work WHERE status = 'received' AND fresh ORDER BY due LIMIT 1000) UNION ALL
            (SELECT since FROM webhookd.work WHERE status = 'queued' AND fresh ORDER BY due LIMIT 1000)
        ) AS looked
        WHERE since < now() - make_interval(secs => :settled)
        LIMIT :fresh_limit
    ) AS counted
), redriven AS (
    SELECT count(*) AS count FROM (
        (
            SELECT FROM webhookd.work
            WHERE status = 'received' AND NOT fresh AND redriven_at IS NOT NULL AND attempts <= 1 AND attempts = 0
            LIMIT CASE WHEN (SELECT count FROM fresh) < :fresh_limit THEN :redriven_limit ELSE 0 END
        ) UNION ALL (
            SELECT FROM webhookd.work
            WHERE status = 'queued' AND NOT fresh AND redriven_at IS NOT NULL AND attempts = 0
            LIMIT CASE WHEN (SELECT count FROM fresh) < :fresh_limit THEN :redriven_limit ELSE 0 END
        )
    ) AS counted
)
SELECT fresh.count AS fresh, redriven.count AS redriven FROM fresh, redriven;

-- name: event_in_full(id)^
SELECT e.*, b.body FROM webhookd.events e LEFT JOIN webhookd.bodies b ON b.event_id = e.id WHERE e.id = :id;
