-- name: revive_event(resend_after, id, died, actor, reason)^
-- A dead event whose dead-letter copy came back to the queue by a redrive: it starts anew, with all its attempts. Only if it
-- died when the copy says: a second delivery of that copy does not wake an event that has died again since.
WITH changed AS (
    UPDATE events
    SET status = 'queued', attempts = 0, finished_at = NULL, retry_at = NULL, dead_reason = NULL,
        dead_letter_sent_at = NULL, redriven_at = now(),
        send_after = now() + make_interval(secs => :resend_after)
    WHERE id = :id AND finished_at IS NOT NULL AND status <> 'processed' AND discarded_at IS NULL
        AND (extract(epoch FROM finished_at) * 1000000)::bigint = :died
    RETURNING id
), audit AS (
    INSERT INTO event_audit (event_id, from_status, to_status, actor, reason)
    SELECT id, 'dead', 'queued', :actor, :reason FROM changed
)
SELECT id FROM changed;

-- name: secret(name)$
SELECT value FROM secrets WHERE name = :name;

-- name: states_of_events(ids)
SELECT
    id, account, event_type, status, attempts, dead_reason, traceparent, dead_letter_sent_at IS NOT NULL AS dead_letter_sent,
    discarded_at IS NOT NULL AS discarded, (extract(epoch FROM finished_at) * 1000000)::bigint AS died,
    status = 'retrying' AND retry_at > now() AS put_off
FROM events
WHERE id = ANY(:ids::uuid[]);

-- name: owed_dead_letters(grace, limit)
-- Dead events whose copy has not reached the dead-letter queue within `grace` seconds of their death.
SELECT id, account, event_type, dead_reason, traceparent, (extract(epoch FROM finished_at) * 1000000)::bigint AS died
FROM events
WHERE status = 'dead' AND dead_letter_sent_at IS NULL AND discarded_at IS NULL AND finished_at <= now() - make_interval(secs => :grace)
ORDER BY finished_at
LIMIT :limit;

-- name: mark_dead_letter_sent(ids)!
UPDATE events SET dead_letter_sent_at = now()
WHERE id = ANY(ARRAY(
    SELECT id FROM events WHERE id = ANY(:ids::uuid[]) AND finished_at IS NOT NULL AND status <> 'processed' ORDER BY id FOR UPDATE
));

-- name: count_dead()$
-- How many dead events have their copy in the dead-letter queue.
SELECT count(*) FROM events WHERE status = 'dead' AND dead_letter_sent_at IS NOT NULL AND discarded_at IS NULL;

-- name: owe_dead_letters(ids, settled)$
-- Owes again the copies of dead events that are not among `ids`, whose copies were all that was found; those sent within the
-- last `settled` seconds may not show yet. Returns how many.
WITH lost AS MATERIALIZED (
    SELECT id FROM events
    WHERE status = 'dead' AND dead_letter_sent_at < now() - make_interval(secs => :settled) AND discarded_at IS NULL
        AND id <> ALL(:ids::uuid[])
    ORDER BY id
    FOR UPDATE
), owed AS (
    UPDATE events e SET dead_letter_sent_at = NULL FROM lost WHERE e.id = lost.id RETURNING e.id
)
SELECT count(*) FROM owed;

-- name: choose_dead(ids, event_types, account, reason, since, until, discarded, after_death, after_id, limit)
-- A selection of dead events (see webhookd_dead), the oldest death first, after the place (`after_death`, `after_id`).
SELECT id, event_type, dead_reason, status, finished_at
FROM webhookd_dead(:ids, :event_types, :account, :reason, :since, :until, :discarded)
WHERE (finished_at, id) > (:after_death::timestamptz, :after_id::uuid)
ORDER BY finished_at, id
LIMIT :limit;

-- name: list_dead(ids, event_types, account, reason, since, until, discarded, before_death, before_id, limit)
-- A selection of dead events (see webhookd_dead), the newest death first, before the place (`before_death`, `before_id`).
SELECT *
FROM webhookd_dead(:ids, :event_types, :account, :reason, :since, :until, :discarded)
WHERE finished_at <= :before_death::timestamptz AND (finished_at, id) < (:before_death::timestamptz, :before_id::uuid)
ORDER BY finished_at DESC, id DESC
LIMIT :limit;

-- name: redrive_events(actor, reason, forced, ids, until)$
-- Dead events that ended before `until`, and where it is `forced` also processed ones, start anew, with all their attempts, by way of the
-- outbox. One whose body is no longer kept would only die of that, and is left alone. Returns how many.
WITH chosen AS MATERIALIZED (
    SELECT id, status FROM events
    WHERE id = ANY(:ids::uuid[]) AND (status <> 'processed' OR :forced::boolean) AND finished_at <= :until
        AND EXISTS (SELECT FROM event_bodies b WHERE b.event_id = events.id)
    ORDER BY id
    FOR UPDATE
), changed AS (
    UPDATE events e
    SET status = 'received', attempts = 0, sends = 0, finished_at = NULL, retry_at = NULL, last_error = NULL, dead_reason = NULL,
        dead_letter_sent_at = NULL, discarded_at = NULL, redriven_at = now(), send_after = now()
    FROM chosen
    WHERE e.id = chosen.id
    RETURNING e.id, chosen.status
), audit AS (
    INSERT INTO event_audit (event_id, from_status, to_status, actor, reason)
    SELECT id, status, 'received', :actor, :reason FROM changed
)
SELECT count(*) FROM changed;

-- name: discard_events(actor, reason, ids, until)$
-- Lets dead events go that died before `until`: they stay dead, have no copy any more, and are no longer kept. Returns how many.
WITH chosen AS MATERIALIZED (
    SELECT id FROM events
    WHERE id = ANY(:ids::uuid[]) AND status <> 'processed' AND discarded_at IS NULL AND finished_at <= :until
    ORDER BY id
    FOR UPDATE
), changed AS (
    UPDATE events e SET discarded_at = now() FROM chosen WHERE e.id = chosen.id RETURNING e.id, e.attempts
), audit AS (
    INSERT INTO event_audit (event_id, from_status, to_status, actor, attempt, reason)
    SELECT id, 'dead', 'dead', :actor, attempts, 'discarded' || coalesce(': ' || nullif(:reason, ''), '') FROM changed
)
SELECT count(*) FROM changed;

-- name: traffic(settled, fresh_limit, redriven_limit)^
-- How much is in the way of a redrive: fresh events that have waited for more than `settled` seconds, and redriven ones that have
-- not been tried; each counted no further than its limit, and the latter only where the former is below it.
WITH fresh AS MATERIALIZED (
    SELECT count(*) AS count FROM (
        SELECT FROM events
        WHERE status IN ('received', 'queued') AND redriven_at IS NULL AND received_at < now() - make_interval(secs => :settled)
        LIMIT :fresh_limit
    ) AS counted
), redriven AS (
    SELECT count(*) AS count FROM (
        SELECT FROM events
        WHERE status IN ('received', 'queued') AND redriven_at IS NOT NULL
        LIMIT CASE WHEN (SELECT count FROM fresh) < :fresh_limit THEN :redriven_limit ELSE 0 END
    ) AS counted
)
SELECT fresh.count AS fresh, redriven.count AS redriven FROM fresh, redriven;

-- name: clock()$
SELECT now();

-- name: event_in_full(id)^
SELECT e.*, b.body FROM events e LEFT JOIN event_bodies b ON b.event_id = e.id WHERE e.id = :id;
