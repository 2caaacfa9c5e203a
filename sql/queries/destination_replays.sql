-- The replay of stored events to a destination. No statement here touches `work`, so no handler runs.

-- name: choose_stored(after_id, below, wanted, destination, until, with_bodies, looked, limit)
-- Returns a page of a replay to a destination: events with ids above `after_id` and below `below`, received until `until`, the oldest
-- first, whatever the status of their handlers. The statement looks and returns like choose_finished. `delivery` is the status of the
-- event's delivery to the destination, NULL if there is none. `has_body` is false if the body is no longer kept. The bodies themselves are
-- returned only `with_bodies`.
WITH found AS MATERIALIZED (
    SELECT * FROM webhookd.ledger l
    WHERE id > :after_id::uuid AND {indexed_filters}
    ORDER BY id
    LIMIT :looked::integer
), chosen AS MATERIALIZED (
    SELECT l.id, l.kind
    FROM found l
    LEFT JOIN LATERAL (
        SELECT status FROM webhookd.work WHERE event_id = l.id AND consumer = 'handlers' OFFSET 0
    ) AS w ON true
    WHERE l.id < :below::uuid AND l.received_at <= :until AND {other_filters}
    ORDER BY l.id
    LIMIT :limit
), shown AS (
    SELECT chosen.id, k.account, k.event_type, d.status AS delivery, b.event_id IS NOT NULL AS has_body, b.body
    FROM chosen
    LEFT JOIN webhookd.kinds k ON k.id = chosen.kind
    LEFT JOIN LATERAL (
        SELECT status FROM webhookd.deliveries WHERE event_id = chosen.id AND destination = :destination OFFSET 0
    ) AS d ON true
    LEFT JOIN LATERAL (
        SELECT event_id, CASE WHEN :with_bodies::boolean THEN body END AS body FROM webhookd.bodies WHERE event_id = chosen.id OFFSET 0
    ) AS b ON true
)
SELECT last.id AS last_id, shown.*
FROM (SELECT) AS one
LEFT JOIN (SELECT id FROM found ORDER BY id OFFSET :looked::integer - 1 LIMIT 1) AS last ON last.id < :below::uuid
LEFT JOIN shown ON true
ORDER BY shown.id;

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

-- name: waiting_deliveries(destination, most)$
-- Returns how many deliveries of a destination wait for their first attempt and are due, counted up to `most`.
SELECT count(*) FROM (
    SELECT FROM webhookd.deliveries WHERE destination = :destination AND status = 'waiting' AND due <= now() LIMIT :most
) AS counted;
