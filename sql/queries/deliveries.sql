-- Deliveries to destinations. insert_events (events.sql) inserts the rows, in the receipt's own commit.
-- Statements that look up deliveries by the ids of events compare the status by <>, so that PostgreSQL reads the primary key and none of
-- the partial indexes. The other statements name one status as a literal, for the partial index of that status.

-- name: due_destinations(names)
-- Returns those of the destinations that have a delivery that is due, and are not paused. If the circuit is open, each delivery that is not
-- dead counts as due. `held`: the circuit is open, and no probe may begin. claim_deliveries explains the 13 hours.
SELECT n.name, c.opened_at IS NOT NULL AND c.probe_at > now() AND c.probe_at <= now() + interval '13 hours' AS held
FROM unnest(:names::text[]) AS n (name) LEFT JOIN webhookd.circuits c ON c.destination = n.name
WHERE least(
    (SELECT due FROM webhookd.deliveries WHERE destination = n.name AND status = 'waiting' ORDER BY due LIMIT 1),
    (SELECT due FROM webhookd.deliveries WHERE destination = n.name AND status = 'retrying' ORDER BY due LIMIT 1)
) <= CASE WHEN c.opened_at IS NULL THEN now() ELSE 'infinity' END
    AND NOT EXISTS (SELECT FROM webhookd.paused_destinations p WHERE p.destination = n.name);

-- name: claim_deliveries(destination, most, lease)
-- Takes up to `most` deliveries that are due, for `lease` seconds, unless the destination is paused. The statement is safe on any number of
-- replicas. Three lanes take turns, each in the order of `due`: all fresh deliveries; retries; and, if fresh deliveries wait for longer than
-- a minute, those of the last minute. Chance decides which lane begins. So no lane waits for the end of another, also if senders take one
-- delivery at a time.
-- While the circuit is open, one delivery is taken, as a probe, when the time of the next probe has come: one that has not failed since the
-- circuit closed, if there is one; else one that is due; else a retry that is not due. The first 20 of each lane are looked at, and as many
-- more as have failed since: a retry that failed as a probe before its time keeps its place. `due_before` is when a retry was due that is
-- a probe now.
-- No probe is put off by more than 12 hours. A later time comes from a clock that was put back, and counts as past.
-- During the minute after the circuit closed, all replicas together take at most 10 deliveries at once; the total may double every 5 seconds.
-- In no other case does the statement change or lock the circuit's row. The statement waits for no lock: `busy` is true if another statement
-- held the circuit's row, and then nothing is taken. Without deliveries, the statement returns one row with `busy` and nothing else.
-- `repeated` is true if an earlier send has no recorded result: its process, or PostgreSQL, was away then.
WITH gate AS MATERIALIZED (
    SELECT opened_at IS NOT NULL AS probe, failed, CASE
        WHEN opened_at IS NULL
            THEN greatest(floor(10 * 2 ^ (extract(epoch FROM now() - closed_at)::float8 / 5)) - released, 0)
        WHEN probe_at <= now() OR probe_at > now() + interval '13 hours' THEN 1
        ELSE 0
    END AS allowed
    FROM webhookd.circuits
    WHERE destination = :destination AND (opened_at IS NOT NULL OR closed_at BETWEEN now() - interval '1 minute' AND now())
    FOR UPDATE SKIP LOCKED
), state AS MATERIALIZED (
    SELECT
        EXISTS (SELECT FROM webhookd.paused_destinations WHERE destination = :destination) AS paused,
        EXISTS (
            SELECT FROM webhookd.circuits
            WHERE destination = :destination AND (opened_at IS NOT NULL OR closed_at BETWEEN now() - interval '1 minute' AND now())
        ) AS gated,
        (SELECT allowed FROM gate) AS allowed
), most AS MATERIALIZED (
    SELECT
        CASE WHEN paused THEN 0 WHEN gated THEN least(coalesce(allowed, 0), :most::bigint) ELSE :most::bigint END::bigint AS most,
        gated AND allowed IS NULL AND NOT paused AS busy
    FROM state
), allowed AS MATERIALIZED (
    SELECT
        most.most,
        CASE WHEN gate.probe THEN (20 + cardinality(gate.failed)) * most.most ELSE most.most END AS looked,
        CASE WHEN gate.probe THEN 'infinity' ELSE now() END AS reach,
        coalesce(gate.probe, false) AS probe,
        gate.failed AS tried
    FROM most LEFT JOIN gate ON true
), fresh AS MATERIALIZED (
    SELECT event_id, due FROM webhookd.deliveries
    WHERE destination = :destination AND status = 'waiting' AND due <= now()
    ORDER BY due
    LIMIT (SELECT looked FROM allowed)
    FOR UPDATE SKIP LOCKED
), failed AS MATERIALIZED (
    SELECT event_id, due FROM webhookd.deliveries
    WHERE destination = :destination AND status = 'retrying' AND due <= (SELECT reach FROM allowed)
        AND (due <= now() OR sends = 0)  -- nobody takes the delivery under way
    ORDER BY due
    LIMIT (SELECT looked FROM allowed)
    FOR UPDATE SKIP LOCKED
), freshest AS MATERIALIZED (
    SELECT event_id, due FROM webhookd.deliveries
    WHERE destination = :destination AND status = 'waiting' AND due > now() - interval '1 minute' AND due <= now()
        AND EXISTS (SELECT FROM fresh WHERE due <= now() - interval '1 minute')
    ORDER BY due
    LIMIT (SELECT looked FROM allowed)
    FOR UPDATE SKIP LOCKED
), lanes AS (
    SELECT event_id, due, row_number() OVER (ORDER BY due) AS turn FROM fresh
    UNION ALL
    SELECT event_id, due, row_number() OVER (ORDER BY due) AS turn FROM failed
    UNION ALL
    SELECT event_id, due, row_number() OVER (ORDER BY due) AS turn FROM freshest
    WHERE event_id NOT IN (SELECT event_id FROM fresh)
), leased AS (
    UPDATE webhookd.deliveries d
    SET due = now() + make_interval(secs => :lease), sends = d.sends + 1
    WHERE d.destination = :destination AND d.event_id = ANY(ARRAY(
        SELECT event_id FROM lanes, allowed AS chosen
        ORDER BY chosen.probe AND event_id = ANY(chosen.tried), chosen.probe AND due > now(),
            CASE WHEN NOT chosen.probe THEN turn END, random()
        LIMIT (SELECT most FROM allowed)
    ))
    RETURNING d.event_id, d.attempts, d.due, d.since, d.sends > 1 AS repeated
), passed AS (
    UPDATE webhookd.circuits
    SET probe_at = CASE WHEN opened_at IS NULL THEN probe_at ELSE now() + make_interval(secs => :lease) END,
        probing = opened_at IS NOT NULL, released = released + (SELECT count(*) FROM leased)
    WHERE destination = :destination AND EXISTS (SELECT FROM gate) AND EXISTS (SELECT FROM leased)
)
SELECT taken.*, (SELECT busy FROM most) AS busy
FROM (SELECT 1) AS one LEFT JOIN (
    SELECT
        leased.*, (SELECT probe FROM allowed) AS probe, k.account, k.event_type, l.received_at, l.traceparent,
        (SELECT body FROM webhookd.bodies WHERE event_id = leased.event_id) AS body, k.key_fingerprint,
        CASE WHEN (SELECT probe FROM allowed) THEN (SELECT due FROM failed WHERE event_id = leased.event_id) END AS due_before
    FROM leased CROSS JOIN LATERAL (SELECT * FROM webhookd.ledger WHERE id = leased.event_id OFFSET 0) AS l
    LEFT JOIN webhookd.kinds k ON k.id = l.kind
) AS taken ON true
ORDER BY taken.event_id;

-- name: end_deliveries(ids, destinations)
-- Ends deliveries that their destinations have accepted: removes the rows, and records the ends in the audit trail. A delivery that is dead
-- meanwhile, or that an operator dropped, stays as it is. Returns the ended ones, with the seconds since the receipt or the redrive.
-- Closes the circuits of the destinations. A destination that has not failed has none.
WITH open AS MATERIALIZED (
    SELECT event_id, destination
    FROM webhookd.deliveries
    WHERE event_id = ANY(:ids::uuid[]) AND status <> 'dead'
        AND (event_id, destination) IN (SELECT * FROM unnest(:ids::uuid[], :destinations::text[]))
    ORDER BY event_id, destination
    FOR UPDATE
), ended AS (
    DELETE FROM webhookd.deliveries d USING open
    WHERE d.event_id = ANY(ARRAY(SELECT event_id FROM open)) AND d.event_id = open.event_id AND d.destination = open.destination
    RETURNING d.event_id, d.destination, d.status, d.attempts + 1 AS attempt, d.since
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, attempt, consumer)
    SELECT event_id, status, 'delivered', 'deliver', attempt, destination FROM ended
), tripped AS MATERIALIZED (
    SELECT destination FROM webhookd.circuits
    WHERE destination = ANY(:destinations::text[]) AND (opened_at IS NOT NULL OR failed <> '{}')
        AND (SELECT count(*) FROM open) >= 0  -- lock the circuits after the deliveries, as fail_delivery does
    ORDER BY destination
    FOR UPDATE
), closed AS (
    UPDATE webhookd.circuits
    SET failed = '{}', opened_at = NULL, probe_at = NULL, probing = false, failing_since = coalesce(opened_at, failing_since),
        released = CASE WHEN opened_at IS NULL THEN released ELSE 0 END,
        closed_at = CASE WHEN opened_at IS NULL THEN closed_at ELSE now() END
    WHERE destination = ANY(ARRAY(SELECT destination FROM tripped))
)
SELECT event_id, destination, extract(epoch FROM clock_timestamp() - since)::float8 AS seconds FROM ended;

-- name: fail_delivery(id, destination, due, due_before, dead, delay, error, answer, status, seconds, down, probe, asked, first, longest)^
-- Records a failed attempt: the next one follows in `delay` seconds, or the delivery is dead. `due` is the version that the attempt took. If
-- the delivery has changed since, another attempt or an operator has taken over, and the statement changes nothing and returns no row.
-- The circuit: if `down` is true, the destination itself failed, and the fifth such failure in a row, each of another event, opens the
-- circuit. If `down` is false, the destination answered about this one event: that closes the circuit. NULL: nobody knows.
-- A `probe` counts as an attempt only if the destination answered about the event, or if the delivery is dead. If it does not count, there
-- is no `delay`: the delivery is due when it was before (`due_before`), or now if that time has come.
-- The first probe follows in `first` seconds. After each failed probe, the wait doubles, up to `longest` seconds; it is at least `asked`. If
-- the circuit opens again within a minute, the waits go on growing, and the circuit counts as open since it opened first.
-- `opened`: this failure opened the circuit, or left it open as a probe.
WITH before AS MATERIALIZED (
    SELECT status, :probe AND coalesce(:down::boolean, true) AND NOT :dead AS free
    FROM webhookd.deliveries WHERE event_id = :id AND destination = :destination
), changed AS (
    UPDATE webhookd.deliveries
    SET status = CASE WHEN :dead THEN 'dead' ELSE 'retrying' END,
        due = CASE
            WHEN :dead THEN now()
            WHEN (SELECT free FROM before) THEN greatest(:due_before::timestamptz, now())
            ELSE now() + make_interval(secs => :delay)
        END,
        attempts = attempts + CASE WHEN (SELECT free FROM before) THEN 0 ELSE 1 END,
        sends = 0, last_error = :error, last_answer = :answer, last_status = :status, last_seconds = :seconds
    WHERE event_id = :id AND destination = :destination AND due = :due AND status <> 'dead'
    RETURNING event_id, attempts, status
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, attempt, reason, consumer)
    SELECT event_id, (SELECT status FROM before), status, 'deliver', attempts, :error, :destination FROM changed
), tripped AS (
    INSERT INTO webhookd.circuits AS c (destination, failed, probe_at)
    SELECT :destination, ARRAY[event_id], now() + make_interval(secs => :asked::float8)
    FROM changed WHERE coalesce(:down::boolean, :probe::boolean) ORDER BY event_id
    ON CONFLICT (destination) DO UPDATE SET (failed, opened_at, probing, probes, probe_at) = (
        SELECT
            CASE WHEN known THEN c.failed WHEN cardinality(c.failed) >= 50 THEN excluded.failed ELSE c.failed || excluded.failed END,
            CASE WHEN c.opened_at IS NOT NULL THEN c.opened_at WHEN opens AND flaps THEN c.failing_since WHEN opens THEN now() END,
            false,
            n.probes,
            greatest(
                CASE WHEN c.opened_at IS NULL THEN c.probe_at END,
                now() + make_interval(secs => greatest(
                    :asked::float8,
                    CASE WHEN opens OR c.opened_at IS NOT NULL
                        THEN least(:first::float8 * 2 ^ least(n.probes, 20), :longest::float8)
                    END
                ))
            )
        FROM (SELECT excluded.failed <@ c.failed AS known) AS k
        CROSS JOIN LATERAL (SELECT
            c.opened_at IS NULL AND cardinality(c.failed) >= 4 AND NOT known AS opens,
            coalesce(c.closed_at BETWEEN now() - interval '1 minute' AND now(), false) AS flaps
        ) AS o
        CROSS JOIN LATERAL (SELECT
            CASE WHEN c.opened_at IS NOT NULL OR (opens AND flaps) THEN c.probes + 1 WHEN opens THEN 0 ELSE c.probes END AS probes
        ) AS n
    )
    WHERE c.opened_at IS NULL OR :probe::boolean
    RETURNING opened_at IS NOT NULL AS opened
), closed AS (
    UPDATE webhookd.circuits
    SET failed = '{}', opened_at = NULL, probe_at = NULL, probing = false, failing_since = coalesce(opened_at, failing_since),
        released = CASE WHEN opened_at IS NULL THEN released ELSE 0 END,
        closed_at = CASE WHEN opened_at IS NULL THEN closed_at ELSE now() END
    WHERE destination = :destination AND NOT :down::boolean AND EXISTS (SELECT FROM changed) AND (opened_at IS NOT NULL OR failed <> '{}')
)
SELECT attempts, coalesce((SELECT opened FROM tripped), false) AS opened FROM changed;

-- name: put_back_delivery(id, destination, due, probe)!
-- Puts back a delivery that was taken and not sent: no attempt is counted. A delivery that was never tried gets its old place, since it was
-- due when it began to wait. Like fail_delivery, changes nothing if another attempt or an operator has taken over.
-- If the delivery was a `probe`, another probe may begin at once.
WITH changed AS (
    UPDATE webhookd.deliveries
    SET due = CASE WHEN status = 'waiting' THEN since ELSE now() END, sends = sends - 1
    WHERE event_id = :id AND destination = :destination AND due = :due AND status <> 'dead'
    RETURNING destination
)
UPDATE webhookd.circuits SET probing = false, probe_at = now()
WHERE :probe AND destination = :destination AND opened_at IS NOT NULL AND EXISTS (SELECT FROM changed);

-- name: destination_counts(most)
-- Returns for each destination that has deliveries how many wait, are retried and are dead, each counted up to `most`. Reads each
-- destination by the index, one after the other, and not the whole table.
WITH RECURSIVE names AS (
    SELECT least(
        (SELECT min(destination) FROM webhookd.deliveries WHERE status = 'waiting'),
        (SELECT min(destination) FROM webhookd.deliveries WHERE status = 'retrying'),
        (SELECT min(destination) FROM webhookd.deliveries WHERE status = 'dead')
    ) AS destination
    UNION ALL
    SELECT least(
        (SELECT min(d.destination) FROM webhookd.deliveries d WHERE d.status = 'waiting' AND d.destination > n.destination),
        (SELECT min(d.destination) FROM webhookd.deliveries d WHERE d.status = 'retrying' AND d.destination > n.destination),
        (SELECT min(d.destination) FROM webhookd.deliveries d WHERE d.status = 'dead' AND d.destination > n.destination)
    )
    FROM names n
    WHERE n.destination IS NOT NULL
)
SELECT
    n.destination,
    (SELECT count(*) FROM (
        SELECT FROM webhookd.deliveries d WHERE d.destination = n.destination AND d.status = 'waiting' LIMIT :most
    ) AS counted) AS waiting,
    (SELECT count(*) FROM (
        SELECT FROM webhookd.deliveries d WHERE d.destination = n.destination AND d.status = 'retrying' LIMIT :most
    ) AS counted) AS retrying,
    (SELECT count(*) FROM (
        SELECT FROM webhookd.deliveries d WHERE d.destination = n.destination AND d.status = 'dead' LIMIT :most
    ) AS counted) AS dead
FROM names n
WHERE n.destination IS NOT NULL;

-- name: destination_count(destination, most)^
-- Returns how many deliveries of one destination wait, are retried and are dead, each counted up to `most`.
SELECT
    (SELECT count(*) FROM (
        SELECT FROM webhookd.deliveries WHERE destination = :destination AND status = 'waiting' LIMIT :most
    ) AS counted) AS waiting,
    (SELECT count(*) FROM (
        SELECT FROM webhookd.deliveries WHERE destination = :destination AND status = 'retrying' LIMIT :most
    ) AS counted) AS retrying,
    (SELECT count(*) FROM (
        SELECT FROM webhookd.deliveries WHERE destination = :destination AND status = 'dead' LIMIT :most
    ) AS counted) AS dead;

-- name: destination_is_known(destination)$
-- Returns whether a destination has deliveries or is paused.
SELECT EXISTS (SELECT FROM webhookd.deliveries WHERE destination = :destination AND status = 'waiting')
    OR EXISTS (SELECT FROM webhookd.deliveries WHERE destination = :destination AND status = 'retrying')
    OR EXISTS (SELECT FROM webhookd.deliveries WHERE destination = :destination AND status = 'dead')
    OR EXISTS (SELECT FROM webhookd.paused_destinations WHERE destination = :destination);

-- name: paused_destinations()
SELECT destination, paused_at, paused_by FROM webhookd.paused_destinations ORDER BY destination;

-- name: pause_destination(destination, actor)!
INSERT INTO webhookd.paused_destinations (destination, paused_by) VALUES (:destination, :actor) ON CONFLICT (destination) DO NOTHING;

-- name: resume_destination(destination)$
-- Ends a pause, and has an open circuit probe at once, unless a probe is under way. Returns the destination, or nothing if it was not paused
-- and its circuit is not open.
WITH resumed AS (
    DELETE FROM webhookd.paused_destinations WHERE destination = :destination RETURNING destination
), hastened AS (
    UPDATE webhookd.circuits SET probe_at = CASE WHEN probing THEN probe_at ELSE now() END
    WHERE destination = :destination AND opened_at IS NOT NULL
    RETURNING destination
)
SELECT destination FROM resumed UNION SELECT destination FROM hastened;

-- name: hasten_retries(destination, most)$
-- Has up to `most` retries of a destination due now, those that were due next first, except for those under way. Returns their number.
WITH chosen AS MATERIALIZED (
    SELECT event_id FROM webhookd.deliveries
    WHERE destination = :destination AND status = 'retrying' AND due > now() AND sends = 0
    ORDER BY due
    LIMIT :most
    FOR UPDATE SKIP LOCKED
), changed AS (
    UPDATE webhookd.deliveries d SET due = now()
    WHERE d.event_id = ANY(ARRAY(SELECT event_id FROM chosen)) AND d.destination = :destination
    RETURNING d.event_id
)
SELECT count(*) FROM changed;

-- name: circuits()
-- Returns the destinations that failed last, are not paused, and have deliveries that are not dead. `opened_at` is NULL while the circuit is
-- closed.
SELECT
    destination, opened_at, probe_at, CASE WHEN opened_at IS NULL THEN cardinality(failed) ELSE 5 + probes END AS failures
FROM webhookd.circuits c
WHERE (opened_at IS NOT NULL OR failed <> '{}')
    AND NOT EXISTS (SELECT FROM webhookd.paused_destinations p WHERE p.destination = c.destination)
    AND (
        EXISTS (SELECT FROM webhookd.deliveries d WHERE d.destination = c.destination AND d.status = 'waiting')
        OR EXISTS (SELECT FROM webhookd.deliveries d WHERE d.destination = c.destination AND d.status = 'retrying')
    );

-- name: list_deliveries(destination, status, limit)
-- Returns deliveries of one destination in one status: the next due first, of the dead the newest death first.
SELECT d.event_id, k.account, k.event_type, d.status, d.attempts, d.since, d.due, d.last_status, d.last_seconds, d.last_error, d.last_answer
FROM (
    (SELECT * FROM webhookd.deliveries
     WHERE :status = 'dead' AND destination = :destination AND status = 'dead' ORDER BY due DESC LIMIT :limit)
    UNION ALL
    (SELECT * FROM webhookd.deliveries
     WHERE :status = 'retrying' AND destination = :destination AND status = 'retrying' ORDER BY due LIMIT :limit)
    UNION ALL
    (SELECT * FROM webhookd.deliveries
     WHERE :status = 'waiting' AND destination = :destination AND status = 'waiting' ORDER BY due LIMIT :limit)
) AS d
LEFT JOIN LATERAL (SELECT kind FROM webhookd.ledger WHERE id = d.event_id OFFSET 0) AS l ON true
LEFT JOIN webhookd.kinds k ON k.id = l.kind
ORDER BY CASE WHEN d.status = 'dead' THEN -extract(epoch FROM d.due) ELSE extract(epoch FROM d.due) END, d.event_id;

-- name: redrive_deliveries(destination, ids, most, actor, reason)$
-- Has up to `most` dead deliveries tried again with all their attempts, the oldest death first: those in `ids`, or all if `ids` is NULL.
-- Returns their number.
WITH chosen AS MATERIALIZED (
    SELECT event_id FROM webhookd.deliveries
    WHERE destination = :destination AND status = 'dead' AND (:ids::uuid[] IS NULL OR event_id = ANY(:ids::uuid[]))
    ORDER BY due
    LIMIT :most
    FOR UPDATE SKIP LOCKED
), changed AS (
    UPDATE webhookd.deliveries d
    SET status = 'waiting', attempts = 0, sends = 0, due = now(), since = now(), redriven_at = now()
    WHERE d.event_id = ANY(ARRAY(SELECT event_id FROM chosen)) AND d.destination = :destination
    RETURNING d.event_id
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason, consumer)
    SELECT event_id, 'dead', 'waiting', :actor, :reason, :destination FROM changed
)
SELECT count(*) FROM changed;

-- name: drop_deliveries(destination, unfinished, ids, most, actor, reason)$
-- Drops up to `most` dead deliveries, and with `unfinished` up to `most` more of each lane: those in `ids`, or all if `ids` is NULL. The
-- destination never gets these events. Returns their number.
WITH dead AS MATERIALIZED (
    SELECT event_id FROM webhookd.deliveries
    WHERE destination = :destination AND status = 'dead' AND (:ids::uuid[] IS NULL OR event_id = ANY(:ids::uuid[]))
    ORDER BY due
    LIMIT :most
    FOR UPDATE SKIP LOCKED
), failed AS MATERIALIZED (
    SELECT event_id FROM webhookd.deliveries
    WHERE :unfinished AND destination = :destination AND status = 'retrying' AND (:ids::uuid[] IS NULL OR event_id = ANY(:ids::uuid[]))
    ORDER BY due
    LIMIT :most
    FOR UPDATE SKIP LOCKED
), fresh AS MATERIALIZED (
    SELECT event_id FROM webhookd.deliveries
    WHERE :unfinished AND destination = :destination AND status = 'waiting' AND (:ids::uuid[] IS NULL OR event_id = ANY(:ids::uuid[]))
    ORDER BY due
    LIMIT :most
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM webhookd.deliveries d
    WHERE d.destination = :destination AND d.event_id = ANY(ARRAY(
        SELECT event_id FROM dead UNION ALL SELECT event_id FROM failed UNION ALL SELECT event_id FROM fresh
    ))
    RETURNING d.event_id, d.status
), audit AS (
    INSERT INTO webhookd.audit (event_id, from_status, to_status, actor, reason, consumer)
    SELECT event_id, status, 'dropped', :actor, :reason, :destination FROM gone
)
SELECT count(*) FROM gone;

-- name: deliveries_of_event(id)
-- Returns the deliveries of one event that have not ended.
SELECT destination, status, attempts, due, last_status, last_seconds, last_error, last_answer
FROM webhookd.deliveries WHERE event_id = :id ORDER BY destination;
