-- name: retention_state()^
-- Returns what the gauges and the doctor show, and does not look at any large table. `ahead` is how many seconds the partitions reach
-- ahead of now. `ahead` is 0 if bodies or audit trail has no partition for now. The other columns are the number of bodies that wait in
-- quarantine (counted up to 100,000), the size of the quarantine in bytes, and the server's clock in seconds since 1970.
WITH ends AS (
    -- The end of the partitions that cover the present instant: the first end at which no other partition begins.
    SELECT
        parent,
        min(webhookd.time_of(low)) AS low,
        min(webhookd.time_of(high)) FILTER (
            WHERE NOT EXISTS (SELECT FROM webhookd.partitions next WHERE next.parent = p.parent AND next.low = p.high)
        ) AS high
    FROM webhookd.partitions p
    WHERE high > webhookd.first_id(now())
    GROUP BY parent
)
SELECT
    CASE WHEN count(*) = 2 AND bool_and(low <= now())
        THEN extract(epoch FROM min(high) - now())::float8 ELSE 0 END AS ahead,
    (SELECT count(*) FROM (SELECT FROM webhookd.quarantine WHERE handled_at IS NULL LIMIT 100000) AS counted) AS quarantine_rows,
    pg_total_relation_size('webhookd.quarantine') AS quarantine_bytes,
    extract(epoch FROM clock_timestamp())::float8 AS epoch
FROM ends;

-- name: partition_rights()^
-- Returns whether the role may create tables in the schema, and which tables of bodies and of the audit trail the role does not own. Only
-- an owner makes, empties and drops partitions.
SELECT
    has_schema_privilege(parent.relnamespace, 'CREATE') AS may_create,
    ARRAY(
        SELECT c.relname::text
        FROM pg_catalog.pg_class AS c
        WHERE c.oid IN (
                SELECT relid::oid FROM pg_partition_tree('webhookd.bodies')
                UNION ALL
                SELECT relid::oid FROM pg_partition_tree('webhookd.audit')
            )
            AND NOT pg_has_role(c.relowner, 'USAGE')
        ORDER BY c.relname
    ) AS not_owned
FROM pg_catalog.pg_class AS parent
WHERE parent.oid = 'webhookd.bodies'::regclass;

-- name: strays()^
-- Returns whether bodies or audit rows lie outside every partition.
SELECT EXISTS (SELECT FROM webhookd.bodies_default) AS bodies, EXISTS (SELECT FROM webhookd.audit_default) AS audit;

-- name: missing_partitions(weeks)
-- Returns the weeks without a partition, by the server's clock. The weeks go from the week of yesterday, for a receiver whose clock is
-- behind, to `weeks` weeks ahead.
SELECT parent, week AT TIME ZONE 'UTC' AS first
FROM unnest(ARRAY['bodies', 'audit']) AS parent
CROSS JOIN generate_series(
    date_trunc('week', now() AT TIME ZONE 'UTC' - interval '1 day'),
    date_trunc('week', now() AT TIME ZONE 'UTC') + :weeks::integer * interval '1 week',
    interval '1 week'
) AS week
WHERE NOT EXISTS (
    SELECT FROM webhookd.partitions p
    WHERE p.parent = parent.parent AND p.low < webhookd.first_id((week + interval '84 hours') AT TIME ZONE 'UTC')
        AND p.high > webhookd.first_id((week + interval '84 hours') AT TIME ZONE 'UTC')
)
ORDER BY week, parent;

-- name: make_partition(parent, first)!
-- Runs outside a transaction, because the procedure commits between its steps.
CALL webhookd.make_partition(:parent, :first);

-- name: old_partitions(parent, age)
-- Returns the partitions whose ids are all older than `age` seconds and a day, the oldest first. By then, as a rule, the last events of
-- the partition's week have also ended `age` seconds ago, and the partition can be emptied as a whole.
SELECT child FROM webhookd.partitions WHERE parent = :parent AND high <= webhookd.id_before(:age::float8 + 86400) ORDER BY low;

-- name: clear_partition(child, age)$
SELECT webhookd.clear_partition(:child, :age::float8);

-- name: vacuum_of(child)$
-- Returns the statement that clears a partition of its deleted rows. VACUUM takes no parameter, no function can run it, and it locks out
-- nobody.
SELECT format('VACUUM (TRUNCATE off) %I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = :child::text::regclass;

-- name: compact_partition(child)$
SELECT webhookd.compact_partition(:child);

-- name: trim_partition(child, after, age, most)^
-- Removes one batch of single rows that are older than `age` seconds. `last` is the id after which the next batch goes on, NULL at the
-- end.
SELECT last, removed
FROM webhookd.trim_partition(:child, :after::uuid, webhookd.id_before(:age::float8), :age::float8, :most::integer);

-- name: drop_partition(child)$
SELECT webhookd.drop_partition(:child);

-- name: remove_events(after, age, window, limit)^
-- Removes one batch of events that ended more than `age` seconds ago. A removed event can never be taken for a new event: its eventDate
-- is more than `window` seconds old, so a repeat is quarantined as too old. So an event without an eventDate stays. `last` is as in
-- trim_partition.
WITH page AS MATERIALIZED (
    SELECT id FROM webhookd.ledger WHERE id > :after::uuid AND id < webhookd.id_before(:age::float8) ORDER BY id LIMIT :limit
), ended AS MATERIALIZED (
    SELECT id
    FROM webhookd.ledger l
    WHERE id > :after::uuid AND id <= (SELECT id FROM page ORDER BY id DESC LIMIT 1)
        AND event_date < now() - make_interval(secs => :window::float8)
        AND NOT EXISTS (
            SELECT
            FROM webhookd.needed(
                (SELECT id FROM page ORDER BY id LIMIT 1), (SELECT id FROM page ORDER BY id DESC LIMIT 1),
                now() - make_interval(secs => :age::float8)
            ) AS n (id)
            WHERE n.id = l.id
        )
    FOR UPDATE SKIP LOCKED
), aliases AS (
    DELETE FROM webhookd.notification_aliases a USING ended WHERE a.event_id = ended.id
), discarded AS MATERIALIZED (
    SELECT event_id FROM webhookd.work WHERE event_id = ANY(ARRAY(SELECT id FROM ended)) ORDER BY event_id FOR UPDATE
), given_up AS (
    DELETE FROM webhookd.work WHERE event_id = ANY(ARRAY(SELECT event_id FROM discarded))
), suspects AS (
    DELETE FROM webhookd.suspects WHERE event_id = ANY(ARRAY(SELECT id FROM ended))
), wanted AS (
    DELETE FROM webhookd.details_wanted WHERE event_id = ANY(ARRAY(SELECT id FROM ended))
), gone AS (
    DELETE FROM webhookd.ledger WHERE id = ANY(ARRAY(SELECT id FROM ended))
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last, (SELECT count(*) FROM ended) AS removed;

-- name: remove_quarantine(age, limit)$
-- Removes one batch of bodies that have been in quarantine for more than `age` seconds. Returns the number of removed bodies.
WITH old AS MATERIALIZED (
    SELECT id FROM webhookd.quarantine
    WHERE received_at < now() - make_interval(secs => :age::float8)
    ORDER BY received_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM webhookd.quarantine q USING old WHERE q.id = old.id
)
SELECT count(*) FROM old;
