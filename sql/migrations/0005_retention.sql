-- Retention: partitions that are made ahead and emptied when they are old, without locking out the receiver.
-- depends: 0003_duties

-- migrate: apply

-- Aliases go with their event.
CREATE INDEX notification_aliases_event ON notification_aliases (event_id);

CREATE VIEW webhookd_partitions AS
SELECT
    parent.relname::text AS parent,
    i.inhrelid::regclass::text AS child,
    (regexp_match(bound, $re$FROM \('([0-9a-f-]{36})'\)$re$))[1]::uuid AS low,
    (regexp_match(bound, $re$TO \('([0-9a-f-]{36})'\)$re$))[1]::uuid AS high
FROM pg_inherits i
JOIN pg_class parent ON parent.oid = i.inhparent
JOIN pg_class child ON child.oid = i.inhrelid
CROSS JOIN LATERAL pg_get_expr(child.relpartbound, child.oid) AS bound
WHERE i.inhparent IN ('event_bodies'::regclass, 'event_audit'::regclass) AND bound <> 'DEFAULT';
COMMENT ON VIEW webhookd_partitions IS 'The partitions of bodies and audit trail but the default ones: ids from low to below high.';

CREATE FUNCTION webhookd_time_of(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$function$;
COMMENT ON FUNCTION webhookd_time_of(uuid) IS 'The instant in a UUID version 7.';

CREATE FUNCTION webhookd_id_before(seconds float8) RETURNS uuid
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $function$
    SELECT webhookd_first_id(greatest(now() - make_interval(secs => seconds), to_timestamp(0)))
$function$;
COMMENT ON FUNCTION webhookd_id_before(float8) IS 'The lowest id of the instant so many seconds ago.';

CREATE FUNCTION webhookd_stands(status text, discarded_at timestamptz, received_at timestamptz, since timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
    SELECT received_at >= since OR status IN ('received', 'queued', 'retrying') OR (status = 'dead' AND discarded_at IS NULL)
$function$;
COMMENT ON FUNCTION webhookd_stands(text, timestamptz, timestamptz, timestamptz) IS
    'Whether an event''s body and audit trail are needed, however old its id is: it has not ended, waits for an operator, or came since.';

-- Makes the partition of `parent` for the week that begins at `first`. To be called outside a transaction.
CREATE PROCEDURE webhookd_make_partition(parent text, first timestamptz)
LANGUAGE plpgsql AS $procedure$
DECLARE
    -- 168 hours: over a change to summer time, a week is another number of them in the session's time zone.
    first_id uuid := webhookd_first_id(first);
    end_id   uuid := webhookd_first_id(first + interval '168 hours');
    child    text := format('%s_%s', parent, to_char(first AT TIME ZONE 'UTC', 'YYYYMMDD'));
    others   text := parent || '_default';
    within   text;
    strays   integer;
BEGIN
    -- Where a neighbour ends or begins an hour beside the week, this one goes up to it.
    first_id := coalesce((
        SELECT p.high FROM webhookd_partitions p
        WHERE p.parent = webhookd_make_partition.parent AND p.low < first_id
            AND abs(extract(epoch FROM webhookd_time_of(p.high) - first)) < 7200
    ), first_id);
    end_id := coalesce((
        SELECT p.low FROM webhookd_partitions p
        WHERE p.parent = webhookd_make_partition.parent AND p.low > first_id
            AND abs(extract(epoch FROM webhookd_time_of(p.low) - first) - 168 * 3600) < 7200
    ), end_id);
    within := format('event_id IS NOT NULL AND event_id >= %L AND event_id < %L', first_id, end_id);

    PERFORM set_config('lock_timeout', '1s', true);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS webhookd_excluded', others);
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %I WHERE %s LIMIT 10001) AS counted', others, within) INTO strays;
    IF strays > 10000 THEN
        RAISE EXCEPTION 'more than 10000 rows of the week from % are in %', first, others
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF strays = 0 AND first > now() THEN
        -- Attaching scans the default partition under a lock that keeps out writers, unless a constraint says that it has
        -- no such rows; adding it unchecked is a matter of a moment, and checking it locks out nobody. A row of that week,
        -- from a clock that is days ahead, is refused meanwhile.
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT webhookd_excluded CHECK (NOT (%s)) NOT VALID', others, within);
        COMMIT;
        EXECUTE format('ALTER TABLE %I VALIDATE CONSTRAINT webhookd_excluded', others);
        COMMIT;
        PERFORM set_config('lock_timeout', '1s', true);
    END IF;
    -- ATTACH rather than CREATE … PARTITION OF: the latter locks out every reader and writer of the parent.
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
    IF strays > 0 THEN
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', others);
        EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %s RETURNING *) INSERT INTO %I SELECT * FROM moved',
                       others, within, child);
    END IF;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child, first_id, end_id);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS webhookd_excluded', others);
END
$procedure$;

-- Empties an old partition, but for the rows of events that stand. By TRUNCATE, which gives the disk back at once and locks
-- this partition only: nobody reads or writes one so old, while a lock on its parent keeps out the receiver. Returns
-- 'nothing' where there was nothing to remove, 'cleared', or 'crowded' where more than `most` rows stand.
CREATE FUNCTION webhookd_clear_partition(child text, age float8, most integer) RETURNS text
LANGUAGE plpgsql AS $function$
DECLARE
    first_id uuid;
    end_id   uuid;
    since    timestamptz := now() - make_interval(secs => age);
    needed   text := 'EXISTS (SELECT FROM events e WHERE e.id = c.event_id AND e.id >= $1 AND e.id < $2'
        ' AND webhookd_stands(e.status, e.discarded_at, e.received_at, $3))';
    surplus  boolean;
    kept     bigint;
BEGIN
    SELECT low, high INTO STRICT first_id, end_id FROM webhookd_partitions p WHERE p.child = webhookd_clear_partition.child;
    EXECUTE format('SELECT EXISTS (SELECT FROM %s c WHERE NOT %s)', child::regclass, needed)
        INTO surplus USING first_id, end_id, since;
    IF NOT surplus THEN
        RETURN 'nothing';
    END IF;
    PERFORM set_config('lock_timeout', '3s', true);
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', child::regclass);
    EXECUTE format('CREATE TEMPORARY TABLE webhookd_kept ON COMMIT DROP AS SELECT c.* FROM %s c WHERE %s LIMIT %s',
                   child::regclass, needed, most + 1) USING first_id, end_id, since;
    SELECT count(*) INTO kept FROM pg_temp.webhookd_kept;
    IF kept > most THEN
        RETURN 'crowded';
    END IF;
    EXECUTE format('TRUNCATE %s', child::regclass);
    EXECUTE format('INSERT INTO %s SELECT * FROM pg_temp.webhookd_kept', child::regclass);
    RETURN 'cleared';
END
$function$;

-- Deletes rows of `child` with ids between `after` and `below`, but those of events that stand; looks at `most` rows.
-- `last` is where to go on, NULL at the end.
CREATE FUNCTION webhookd_trim_partition(
    child text, after uuid, below uuid, age float8, most integer, OUT last uuid, OUT removed bigint
)
LANGUAGE plpgsql AS $function$
BEGIN
    EXECUTE format(
        $query$
        WITH page AS MATERIALIZED (
            SELECT event_id FROM %1$s WHERE event_id > $1 AND event_id < $2 ORDER BY event_id LIMIT $4
        ), gone AS (
            DELETE FROM %1$s c
            USING (SELECT DISTINCT event_id FROM page) p
            WHERE c.event_id = p.event_id AND NOT EXISTS (
                SELECT FROM events e
                WHERE e.id = p.event_id AND webhookd_stands(e.status, e.discarded_at, e.received_at, $3)
            )
            RETURNING c.event_id
        )
        SELECT (SELECT event_id FROM page ORDER BY event_id DESC LIMIT 1), (SELECT count(*) FROM gone)
        $query$, child::regclass)
    INTO last, removed USING after, below, now() - make_interval(secs => age), most;
END
$function$;

-- Drops a partition that is empty; false where it is not. Waits for its lock on the parent no longer than the receiver,
-- which stands behind it in the queue, can wait.
CREATE FUNCTION webhookd_drop_partition(child text) RETURNS boolean
LANGUAGE plpgsql AS $function$
DECLARE
    used boolean;
    above regclass := (SELECT inhparent::regclass FROM pg_inherits WHERE inhrelid = child::regclass);
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', child::regclass) INTO used;
    IF used THEN
        RETURN false;
    END IF;
    PERFORM set_config('lock_timeout', '300ms', true);
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', above);
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', child::regclass);
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', child::regclass) INTO used;
    IF NOT used THEN
        EXECUTE format('DROP TABLE %s', child::regclass);
    END IF;
    RETURN NOT used;
END
$function$;

-- migrate: rollback

DROP FUNCTION webhookd_drop_partition(text);
DROP FUNCTION webhookd_trim_partition(text, uuid, uuid, float8, integer);
DROP FUNCTION webhookd_clear_partition(text, float8, integer);
DROP PROCEDURE webhookd_make_partition(text, timestamptz);
DROP FUNCTION webhookd_stands(text, timestamptz, timestamptz, timestamptz);
DROP FUNCTION webhookd_id_before(float8);
DROP FUNCTION webhookd_time_of(uuid);
DROP VIEW webhookd_partitions;
DROP INDEX notification_aliases_event;
