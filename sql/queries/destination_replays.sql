-- The replay of stored events to a destination. No statement here touches `work`, so no handler runs.

-- name: lock_replay_orders()$
-- Holds for the transaction. So of two orders of a replay to one destination, the second sees the first.
SELECT pg_advisory_xact_lock(hashtext('webhookd.replay_orders'));

-- name: unfinished_replay(destination)$
-- Returns the id of the replay to a destination that has not ended, and is no dry run.
SELECT id FROM webhookd.operations
WHERE finished_at IS NULL AND NOT dry_run AND selection->>'destination' = :destination
ORDER BY created_at
LIMIT 1;

-- name: cancel_replays(destination, error)
-- Cancels the replays to a destination that have not ended. Returns their ids.
UPDATE webhookd.operations
SET state = 'cancelled', finished_at = now(), updated_at = now(), held_by = NULL, error = :error
WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.operations
    WHERE finished_at IS NULL AND NOT dry_run AND selection->>'destination' = :destination
    ORDER BY id
    FOR UPDATE
))
RETURNING id;

-- name: choose_stored(after_id, below, wanted, destination, until, looked, limit)
-- Returns a page of a replay to a destination: events with ids above `after_id` and below `below`, received until `until`, the oldest
-- first, whatever the status of their handlers. The statement looks and returns like choose_finished. `delivery` is the status of the
-- event's delivery to the destination, NULL if there is none; then `ended` is the end of its last delivery, NULL if the audit trail has none.
-- `has_body` is false if the body is no longer kept. `imported`: the destination never had the event, since another program has processed it.
WITH found AS MATERIALIZED (
    SELECT * FROM webhookd.ledger l
    WHERE id > :after_id::uuid AND {indexed_filters}
    ORDER BY id
    LIMIT :looked::integer
), chosen AS MATERIALIZED (
    SELECT l.id, l.kind, w.status
    FROM found l
    LEFT JOIN LATERAL (
        SELECT status FROM webhookd.work WHERE event_id = l.id AND consumer = 'handlers' OFFSET 0
    ) AS w ON true
    WHERE l.id < :below::uuid AND l.received_at <= :until AND {other_filters}
    ORDER BY l.id
    LIMIT :limit
), shown AS (
    SELECT
        chosen.id, k.account, k.event_type, d.status AS delivery, a.to_status AS ended,
        EXISTS (SELECT FROM webhookd.bodies WHERE event_id = chosen.id) AS has_body,
        d.status IS NULL AND a.to_status IS NULL AND chosen.status IS NULL AND coalesce((
            SELECT h.actor = 'import' FROM webhookd.audit h
            WHERE h.event_id = chosen.id AND h.to_status = 'processed'
            ORDER BY h.at DESC
            LIMIT 1
        ), false) AS imported
    FROM chosen
    LEFT JOIN webhookd.kinds k ON k.id = chosen.kind
    LEFT JOIN LATERAL (
        SELECT status FROM webhookd.deliveries WHERE event_id = chosen.id AND destination = :destination OFFSET 0
    ) AS d ON true
    LEFT JOIN LATERAL (
        SELECT to_status FROM webhookd.audit
        WHERE d.status IS NULL AND event_id = chosen.id AND consumer = :destination
        ORDER BY at DESC
        LIMIT 1
    ) AS a ON true
)
SELECT last.id AS last_id, shown.*
FROM (SELECT) AS one
LEFT JOIN (SELECT id FROM found ORDER BY id OFFSET :looked::integer - 1 LIMIT 1) AS last ON last.id < :below::uuid
LEFT JOIN shown ON true
ORDER BY shown.id;

-- name: stored_bodies(ids, most)
-- Returns the bodies of the first of the events, in the order of their ids: as many as begin within the first `most` bytes. The body is NULL
-- if it is no longer kept. PostgreSQL knows the length of a body without reading the body.
SELECT id, body
FROM (
    SELECT g.id, b.body, sum(octet_length(b.body)) OVER (
        ORDER BY g.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS before
    FROM unnest(:ids::uuid[]) AS g (id)
    LEFT JOIN LATERAL (SELECT body FROM webhookd.bodies WHERE event_id = g.id OFFSET 0) AS b ON true
) AS sized
WHERE coalesce(before, 0) < :most
ORDER BY id;

-- name: replay_deliveries(destination, ids, actor, reason)$
-- Has events delivered to a destination again, with all attempts. A dead delivery starts anew. A delivery that has ended, or was never
-- made, is made. A delivery that is under way stays as it is, and so does an event whose body is no longer kept. The transaction holds
-- lock_ends, so retention does not remove a body meanwhile. Returns the number of deliveries that the statement started.
WITH kept AS MATERIALIZED (
    SELECT g.id FROM unnest(:ids::uuid[]) AS g (id) WHERE EXISTS (SELECT FROM webhookd.bodies b WHERE b.event_id = g.id)
), dead AS MATERIALIZED (
    SELECT d.event_id FROM webhookd.deliveries d
    WHERE d.event_id = ANY(ARRAY(SELECT id FROM kept)) AND d.destination = :destination AND d.status NOT IN ('waiting', 'retrying')
    ORDER BY d.event_id
    FOR UPDATE
), changed AS (
    UPDATE webhookd.deliveries d
    SET status = 'waiting', attempts = 0, sends = 0, due = now(), since = now(), redriven_at = now()
    WHERE d.event_id = ANY(ARRAY(SELECT event_id FROM dead)) AND d.destination = :destination
    RETURNING d.event_id
), anew AS (
    INSERT INTO webhookd.deliveries (event_id, destination, redriven_at)
    SELECT id, :destination, now() FROM kept
    ORDER BY id
    ON CONFLICT DO NOTHING
    RETURNING event_id
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason, consumer)
    SELECT event_id, 'dead', 'waiting', :actor, :reason, :destination FROM changed
    UNION ALL
    SELECT event_id, coalesce((
        SELECT a.to_status FROM webhookd.audit a
        WHERE a.event_id = anew.event_id AND a.consumer = :destination
        ORDER BY a.at DESC
        LIMIT 1
    ), 'unsent'), 'waiting', :actor, :reason, :destination
    FROM anew
)
SELECT (SELECT count(*) FROM changed) + (SELECT count(*) FROM anew);

-- name: replay_gate(destination, most)^
-- Returns how many deliveries of a destination are due, each lane counted up to `most`, whether the destination is paused, and whether its
-- circuit is open. While the circuit is open, each delivery that is not dead counts as due.
WITH circuit AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM webhookd.circuits WHERE destination = :destination AND opened_at IS NOT NULL) AS open
)
SELECT
    (SELECT count(*) FROM (
        SELECT FROM webhookd.deliveries
        WHERE destination = :destination AND status = 'waiting' AND due <= CASE WHEN open THEN 'infinity' ELSE now() END
        ORDER BY due
        LIMIT :most
    ) AS waiting) + (SELECT count(*) FROM (
        SELECT FROM webhookd.deliveries
        WHERE destination = :destination AND status = 'retrying' AND due <= CASE WHEN open THEN 'infinity' ELSE now() END
        ORDER BY due
        LIMIT :most
    ) AS retrying) AS due,
    EXISTS (SELECT FROM webhookd.paused_destinations WHERE destination = :destination) AS paused,
    open
FROM circuit;
