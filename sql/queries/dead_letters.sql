-- name: revive_event(resend_after, id, died, actor, reason)^
-- A dead event whose dead-letter copy came back to the queue by a redrive: it starts anew, with all its attempts. Only if it
-- died when the copy says: a second delivery of that copy does not wake an event that has died again since.
WITH changed AS (
    UPDATE webhookd.events
    SET status = 'queued', attempts = 0, finished_at = NULL, retry_at = NULL, dead_reason = NULL,
        dead_letter_sent_at = NULL, redriven_at = now(),
        send_after = now() + make_interval(secs => :resend_after)
    WHERE id = :id AND finished_at IS NOT NULL AND status <> 'processed' AND discarded_at IS NULL
        AND (extract(epoch FROM finished_at) * 1000000)::bigint = :died
    RETURNING id
), audit AS (
    INSERT INTO webhookd.event_audit (event_id, from_status, to_status, actor, reason)
    SELECT id, 'dead', 'queued', :actor, :reason FROM changed
)
SELECT id FROM changed;

-- name: secret(name)$
SELECT value FROM webhookd.secrets WHERE name = :name;

-- name: states_of_events(ids)
SELECT
    id, account, event_type, status, attempts, redriven_at, dead_reason, traceparent,
    dead_letter_sent_at IS NOT NULL AS dead_letter_sent,
    discarded_at IS NOT NULL AS discarded, (extract(epoch FROM finished_at) * 1000000)::bigint AS died,
    status = 'retrying' AND retry_at > now() AS put_off
FROM webhookd.events
WHERE id = ANY(:ids::uuid[]);

-- name: owed_dead_letters(grace, limit)
-- Dead events whose copy has not reached the dead-letter queue within `grace` seconds of their death.
SELECT id, account, event_type, dead_reason, traceparent, (extract(epoch FROM finished_at) * 1000000)::bigint AS died
FROM webhookd.events
WHERE status = 'dead' AND dead_letter_sent_at IS NULL AND discarded_at IS NULL AND finished_at <= now() - make_interval(secs => :grace)
ORDER BY finished_at
LIMIT :limit;

-- name: mark_dead_letter_sent(ids)!
UPDATE webhookd.events SET dead_letter_sent_at = now()
WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.events WHERE id = ANY(:ids::uuid[]) AND finished_at IS NOT NULL AND status <> 'processed' ORDER BY id FOR UPDATE
));

-- name: count_dead(limit)$
-- How many dead events have their copy in the dead-letter queue; NULL if more than `limit` are dead, sent or not.
SELECT CASE WHEN count(*) <= :limit::integer THEN count(sent_at) END
FROM (
    SELECT dead_letter_sent_at AS sent_at FROM webhookd.events WHERE status = 'dead' AND discarded_at IS NULL LIMIT :limit::integer + 1
) AS counted;

-- name: owe_dead_letters(ids, settled, after_death, after_id, looked)^
-- Among `looked` dead events after a place, in the order of their deaths: owes again the copies of those that are not among `ids`,
-- whose copies were all that was found. Copies sent within the last `settled` seconds may not show yet. `last_at` and `last_id` are the
-- place that was looked at last, NULL at the end.
WITH page AS MATERIALIZED (
    SELECT id, finished_at, dead_letter_sent_at
    FROM webhookd.events
    WHERE status = 'dead' AND discarded_at IS NULL
        AND finished_at >= :after_death::timestamptz AND (finished_at, id) > (:after_death::timestamptz, :after_id::uuid)
    ORDER BY finished_at, id
    LIMIT :looked::integer
), lost AS MATERIALIZED (
    SELECT id FROM webhookd.events
    WHERE id = ANY(ARRAY(
        SELECT id FROM page
        WHERE dead_letter_sent_at < now() - make_interval(secs => :settled) AND id <> ALL(:ids::uuid[])
    ))
        AND finished_at IS NOT NULL AND status <> 'processed' AND discarded_at IS NULL
        AND dead_letter_sent_at < now() - make_interval(secs => :settled)
    ORDER BY id
    FOR UPDATE
), owed AS (
    UPDATE webhookd.events e SET dead_letter_sent_at = NULL FROM lost WHERE e.id = lost.id RETURNING e.id
)
SELECT (SELECT count(*) FROM owed) AS owed, last.finished_at AS last_at, last.id AS last_id
FROM (SELECT) AS one
LEFT JOIN (SELECT finished_at, id FROM page ORDER BY finished_at, id OFFSET :looked::integer - 1 LIMIT 1) AS last ON true;

-- choose_dead and search_dead look at `looked` dead events from a place on, in the order of their deaths, and return those that the filters
-- choose, `limit` and no more, so that the work of a call has a bound whatever the filters are. There is always a row: `last_at` and
-- `last_id` are the place that was looked at last, NULL if the end was reached; the other columns are NULL if nothing was chosen.

-- name: choose_dead(after_death, after_id, until, looked, event_types, account, reason, limit)
-- Those that were not discarded, the oldest death first, up to the deaths of `until`. `until` ends the choice beside the scan: with old
-- statistics, PostgreSQL takes a range for few events, and would read and sort all of it.
WITH found AS MATERIALIZED (
    SELECT e AS event, e.id, e.finished_at AS at
    FROM webhookd.events e
    WHERE status = 'dead' AND discarded_at IS NULL
        AND finished_at >= :after_death::timestamptz AND (finished_at, id) > (:after_death::timestamptz, :after_id::uuid)
    ORDER BY finished_at, id
    LIMIT :looked::integer
), chosen AS (
    SELECT event, id, at FROM found
    WHERE at <= :until::timestamptz
        AND webhookd.chosen(event, NULL, :event_types, :account, NULL, NULL, NULL, NULL, NULL)
        AND (
            :reason::text IS NULL OR position(lower(:reason) IN lower(coalesce((event).dead_reason, ''))) > 0
            OR position(lower(:reason) IN lower(coalesce((event).last_error, ''))) > 0
        )
    ORDER BY at, id
    LIMIT :limit
)
SELECT
    last.at AS last_at, last.id AS last_id, chosen.id, (chosen.event).event_type, (chosen.event).dead_reason,
    (chosen.event).status, (chosen.event).finished_at
FROM (SELECT) AS one
LEFT JOIN (SELECT at, id FROM found ORDER BY at, id OFFSET :looked::integer - 1 LIMIT 1) AS last ON last.at <= :until::timestamptz
LEFT JOIN chosen ON true
ORDER BY chosen.at, chosen.id;

-- name: choose_dead_by_id(ids, after_death, after_id, until, limit)
-- Those of `ids` that are dead, discarded or not; else as choose_dead, with the end reached.
WITH found AS MATERIALIZED (
    SELECT id, event_type, dead_reason, status, finished_at FROM webhookd.events WHERE id = ANY(:ids::uuid[])
)
SELECT * FROM found
WHERE status = 'dead' AND finished_at <= :until::timestamptz
    AND (finished_at, id) > (:after_death::timestamptz, :after_id::uuid)
ORDER BY finished_at, id
LIMIT :limit;

-- name: search_dead(discarded, before, below, since, looked, event_types, account, reason, limit)
-- Those that were discarded, or were not, the newest death first, back to the deaths of `since`, which ends the search beside the scan.
-- However many were discarded, they are not looked at for those that were not.
WITH found AS MATERIALIZED (
    SELECT * FROM (
        (
            SELECT e AS event, e.id, finished_at AS at
            FROM webhookd.events e
            WHERE NOT :discarded::boolean AND status = 'dead' AND discarded_at IS NULL
                AND finished_at <= :before::timestamptz AND (finished_at, id) < (:before::timestamptz, :below::uuid)
            ORDER BY finished_at DESC, id DESC
            LIMIT :looked::integer
        ) UNION ALL (
            SELECT e AS event, e.id, finished_at AS at
            FROM webhookd.events e
            WHERE :discarded::boolean AND status = 'dead'
                AND finished_at <= :before::timestamptz AND (finished_at, id) < (:before::timestamptz, :below::uuid)
            ORDER BY finished_at DESC, id DESC
            LIMIT :looked::integer
        )
    ) AS either
    ORDER BY at DESC, id DESC
    LIMIT :looked::integer
), chosen AS (
    SELECT event, id, at FROM found
    WHERE at >= :since::timestamptz AND ((event).discarded_at IS NOT NULL) = :discarded::boolean
        AND webhookd.chosen(event, NULL, :event_types, :account, NULL, NULL, NULL, NULL, NULL)
        AND (
            :reason::text IS NULL OR position(lower(:reason) IN lower(coalesce((event).dead_reason, ''))) > 0
            OR position(lower(:reason) IN lower(coalesce((event).last_error, ''))) > 0
        )
    ORDER BY at DESC, id DESC
    LIMIT :limit
)
SELECT last.at AS last_at, last.id AS last_id, (chosen.event).*
FROM (SELECT) AS one
LEFT JOIN (SELECT at, id FROM found ORDER BY at DESC, id DESC OFFSET :looked::integer - 1 LIMIT 1) AS last
    ON last.at >= :since::timestamptz
LEFT JOIN chosen ON true
ORDER BY chosen.at DESC, chosen.id DESC;

-- name: redrive_events(actor, reason, forced, ids, ended)$
-- Dead events, and if it is `forced` also processed ones, start anew, with all their attempts, by way of the outbox. `ended` has for each of
-- `ids` the time of the end that was chosen: an event that has ended anew since is left alone. So is one whose body is no longer
-- kept, since it would only die of that. Returns how many.
WITH chosen AS MATERIALIZED (
    SELECT id, status FROM webhookd.events
    WHERE id = ANY(:ids::uuid[]) AND (status <> 'processed' OR :forced::boolean)
        AND finished_at = (:ended::timestamptz[])[array_position(:ids::uuid[], id)]
        AND EXISTS (SELECT FROM webhookd.event_bodies b WHERE b.event_id = events.id)
    ORDER BY id
    FOR UPDATE
), changed AS (
    UPDATE webhookd.events e
    SET status = 'received', attempts = 0, sends = 0, finished_at = NULL, retry_at = NULL, last_error = NULL, dead_reason = NULL,
        dead_letter_sent_at = NULL, discarded_at = NULL, redriven_at = now(), send_after = now()
    FROM chosen
    WHERE e.id = chosen.id
    RETURNING e.id, chosen.status
), audit AS (
    INSERT INTO webhookd.event_audit (event_id, from_status, to_status, actor, reason)
    SELECT id, status, 'received', :actor, :reason FROM changed
)
SELECT count(*) FROM changed;

-- name: discard_events(actor, reason, ids, ended)$
-- Discards dead events, each by its death in `ended`, as redrive_events takes it: they stay dead, have no copy any more, and are no longer kept. Returns how many.
WITH chosen AS MATERIALIZED (
    SELECT id FROM webhookd.events
    WHERE id = ANY(:ids::uuid[]) AND status <> 'processed' AND discarded_at IS NULL
        AND finished_at = (:ended::timestamptz[])[array_position(:ids::uuid[], id)]
    ORDER BY id
    FOR UPDATE
), changed AS (
    UPDATE webhookd.events e SET discarded_at = now() FROM chosen WHERE e.id = chosen.id RETURNING e.id, e.attempts
), audit AS (
    INSERT INTO webhookd.event_audit (event_id, from_status, to_status, actor, attempt, reason)
    SELECT id, 'dead', 'dead', :actor, attempts, 'discarded' || coalesce(': ' || nullif(:reason, ''), '') FROM changed
)
SELECT count(*) FROM changed;

-- name: traffic(settled, fresh_limit, redriven_limit)^
-- How much is in the way of a redrive: fresh events that have waited for more than `settled` seconds, and redriven ones that have
-- not been tried; each counted no further than its limit, and the latter only where the former is below it.
WITH fresh AS MATERIALIZED (
    SELECT count(*) AS count FROM (
        SELECT FROM webhookd.events
        WHERE status IN ('received', 'queued') AND redriven_at IS NULL AND received_at < now() - make_interval(secs => :settled)
        LIMIT :fresh_limit
    ) AS counted
), redriven AS (
    SELECT count(*) AS count FROM (
        SELECT FROM webhookd.events
        WHERE status IN ('received', 'queued') AND redriven_at IS NOT NULL
        LIMIT CASE WHEN (SELECT count FROM fresh) < :fresh_limit THEN :redriven_limit ELSE 0 END
    ) AS counted
)
SELECT fresh.count AS fresh, redriven.count AS redriven FROM fresh, redriven;

-- name: clock()$
SELECT now();

-- name: event_in_full(id)^
SELECT e.*, b.body FROM webhookd.events e LEFT JOIN webhookd.event_bodies b ON b.event_id = e.id WHERE e.id = :id;
