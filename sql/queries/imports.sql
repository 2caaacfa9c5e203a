-- name: import_events(ids, notification_keys, content_keys, body_hashes, kinds, notification_ids, event_dates, entity_ids, invoice_numbers, merchant_references, bodies, traceparents, kind_ids, kind_texts, send_after, actor, reason, delivery_ids, destinations)^
-- Stores notifications that another program received earlier. The parameters and the result are those of insert_events, and the same keys
-- find duplicates. The time in each id is the time of the receipt. If `send_after` is NULL, the other program has processed the
-- notifications: they get no work, and the audit trail shows their end at the time of their receipt, so that retention counts from there.
-- Otherwise they get work, which waits behind fresh work. A body that is NULL is not stored.
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
    WHERE i.notification_key <> ALL(ARRAY(
        SELECT notification_key FROM webhookd.notification_aliases WHERE notification_key = ANY(:notification_keys::uuid[])
    )) AND (SELECT known FROM kinds)
), inserted AS (
    INSERT INTO webhookd.ledger (
        id, notification_key, content_key, body_hash, received_at, event_date, kind, notification_id, entity_id, invoice_number,
        merchant_reference, traceparent
    )
    SELECT
        id, notification_key, content_key, body_hash, webhookd.time_of(id), event_date, kind, notification_id, entity_id,
        invoice_number, merchant_reference, traceparent
    FROM incoming
    ORDER BY position
    ON CONFLICT DO NOTHING
    RETURNING id, received_at
), body AS (
    INSERT INTO webhookd.bodies (event_id, body)
    SELECT id, incoming.body FROM incoming JOIN inserted USING (id) WHERE incoming.body IS NOT NULL
), work AS (
    INSERT INTO webhookd.work (event_id, consumer, due, fresh)
    SELECT id, 'handlers', now() + make_interval(secs => :send_after), false FROM inserted WHERE :send_after::float8 IS NOT NULL
), deliveries AS (
    INSERT INTO webhookd.deliveries (event_id, destination)
    SELECT d.id, d.destination
    FROM unnest(:delivery_ids::uuid[], :destinations::text[]) AS d (id, destination) JOIN inserted USING (id)
), audit AS (
    INSERT INTO webhookd.audit (event_id, at, from_status, to_status, actor, reason)
    SELECT id, received_at, NULL, 'received', :actor, :reason FROM inserted
    UNION ALL
    SELECT id, received_at + interval '1 microsecond', 'received', 'processed', :actor, :reason
    FROM inserted
    WHERE :send_after::float8 IS NULL
)
SELECT
    (SELECT known FROM kinds) AS known,
    now() + make_interval(secs => :send_after) AS due,
    CASE WHEN count(*) < cardinality(:ids::uuid[]) THEN coalesce(array_agg(id), '{}') END AS new_ids
FROM inserted;

-- name: find_known(notification_keys, content_keys, body_hashes)
-- Finds the events that notifications would repeat, as find_duplicates does, and stores nothing. `waits`: no attempt at the event's work
-- has begun.
SELECT
    i.position,
    coalesce(same.id, alias.event_id, content.id) AS event_id,
    coalesce(same.body_hash, alias.body_hash, i.body_hash) = i.body_hash
        OR alias.body_hash = '00000000-0000-0000-0000-000000000000'
        OR EXISTS (SELECT FROM webhookd.kinds WHERE id = same.kind AND key_fingerprint = 'history') AS same_body,
    coalesce(w.status IN ('received', 'queued') AND w.attempts = 0 AND w.redriven_at IS NULL, false) AS waits
FROM unnest(:notification_keys::uuid[], :content_keys::uuid[], :body_hashes::uuid[])
    WITH ORDINALITY AS i (notification_key, content_key, body_hash, position)
LEFT JOIN LATERAL (
    SELECT id, body_hash, kind FROM webhookd.ledger WHERE notification_key = i.notification_key OFFSET 0
) AS same ON true
LEFT JOIN LATERAL (
    SELECT event_id, body_hash FROM webhookd.notification_aliases WHERE notification_key = i.notification_key OFFSET 0
) AS alias ON true
LEFT JOIN LATERAL (SELECT id FROM webhookd.ledger WHERE content_key = i.content_key OFFSET 0) AS content ON true
LEFT JOIN LATERAL (
    SELECT * FROM webhookd.work WHERE event_id = coalesce(same.id, alias.event_id, content.id) AND consumer = 'handlers' OFFSET 0
) AS w ON true
WHERE coalesce(same.id, alias.event_id, content.id) IS NOT NULL;

-- name: end_waiting(ids, actor, reason)$
-- Ends the work of events that another program has processed. Work stays if an attempt at it has failed, if it is dead, if an operator
-- redrove it, or if a worker or a sender holds it just now. Returns the number of events whose work ended.
WITH waiting AS MATERIALIZED (
    SELECT event_id FROM webhookd.work
    WHERE event_id = ANY(:ids::uuid[]) AND consumer = 'handlers' AND status NOT IN ('dead', 'discarded', 'retrying')
        AND attempts = 0 AND redriven_at IS NULL
    ORDER BY event_id
    FOR UPDATE SKIP LOCKED
), ended AS (
    DELETE FROM webhookd.work WHERE event_id = ANY(ARRAY(SELECT event_id FROM waiting)) AND consumer = 'handlers'
    RETURNING event_id, status
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason)
    SELECT event_id, status, 'processed', :actor, :reason FROM ended
)
SELECT count(*) FROM ended;

-- name: weeks_without_partition(parent, instants)
-- Returns the beginning of each week that has no partition of `parent` for one of the instants.
SELECT DISTINCT date_trunc('week', i.at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS first
FROM unnest(:instants::timestamptz[]) AS i (at)
WHERE NOT EXISTS (
    SELECT FROM webhookd.partitions p
    WHERE p.parent = :parent AND p.low <= webhookd.first_id(i.at) AND p.high > webhookd.first_id(i.at)
)
ORDER BY first;
