-- Retention: partitions are made ahead of time, and emptied when they are old. The receiver is not locked out.

CREATE VIEW webhookd.partitions AS
SELECT
    parent.relname::text AS parent,
    i.inhrelid::regclass::text AS child,
    bounds[1]::uuid AS low,
    bounds[2]::uuid AS high
FROM pg_inherits i
JOIN pg_class parent ON parent.oid = i.inhparent
JOIN pg_class child ON child.oid = i.inhrelid
-- The view has no row for the default partition, nor for a partition that somebody made from MINVALUE or to MAXVALUE. Retention neither
-- empties nor drops these partitions as a whole.
CROSS JOIN LATERAL regexp_match(
    pg_get_expr(child.relpartbound, child.oid), $re$FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)$re$
) AS bounds
WHERE i.inhparent IN ('webhookd.bodies'::regclass, 'webhookd.audit'::regclass) AND bounds IS NOT NULL;
COMMENT ON VIEW webhookd.partitions IS
    'The partitions of bodies and audit trail that have two bounds. A partition has the ids from low to below high.';

CREATE FUNCTION webhookd.time_of(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$function$;
COMMENT ON FUNCTION webhookd.time_of(uuid) IS 'The instant in a UUID of version 7.';

CREATE FUNCTION webhookd.id_before(seconds float8) RETURNS uuid
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $function$
    SELECT webhookd.first_id(greatest(now() - make_interval(secs => seconds), to_timestamp(0)))
$function$;
COMMENT ON FUNCTION webhookd.id_before(float8) IS 'The lowest id of the instant that is the given number of seconds ago.';

CREATE FUNCTION webhookd.needed(low uuid, high uuid, since timestamptz) RETURNS SETOF uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $function$
    -- `needed.since` is the parameter. Without the function's name, PostgreSQL would take the column `since` of the table work, which
    -- goes first.
    SELECT id FROM webhookd.ledger WHERE id BETWEEN low AND high AND received_at >= needed.since
    UNION ALL
    SELECT event_id FROM webhookd.work
    WHERE event_id BETWEEN low AND high AND (status <> 'discarded' OR discarded_at >= needed.since)
    UNION ALL
    SELECT event_id FROM webhookd.audit WHERE event_id BETWEEN low AND high AND at >= needed.since
$function$;
COMMENT ON FUNCTION webhookd.needed(uuid, uuid, timestamptz) IS
    'The events with ids from low to high that retention must keep, however old their ids are. Such an event has not ended, or waits '
    'for an operator, or came, ended or was discarded at or after `since`.';

-- Makes the partition of `parent` for the week that begins at `first`. Call this procedure outside a transaction, because it commits.
CREATE PROCEDURE webhookd.make_partition(parent text, first timestamptz)
LANGUAGE plpgsql AS $procedure$
DECLARE
    -- 168 hours instead of one week: in the session's time zone, a week with a change to summer time has another number of hours.
    first_id uuid := webhookd.first_id(first);
    end_id   uuid := webhookd.first_id(first + interval '168 hours');
    child    text := format('%s_%s', parent, to_char(first AT TIME ZONE 'UTC', 'YYYYMMDD'));
    others   text := parent || '_default';
    within   text;
    strays   integer;
    excluded boolean;
    state    text;
    message  text;
BEGIN
    -- After a crash, this constraint may still exist, and refuses rows. So the procedure drops the constraint first and commits, whatever
    -- happens to the rest.
    PERFORM set_config('lock_timeout', '1s', true);
    EXECUTE format('ALTER TABLE webhookd.%I DROP CONSTRAINT IF EXISTS webhookd_excluded', others);
    COMMIT;
    PERFORM set_config('lock_timeout', '1s', true);

    -- If a neighbour partition ends or begins an hour away from the week's bound, the new partition reaches up to the neighbour.
    first_id := coalesce((
        SELECT p.high FROM webhookd.partitions p
        WHERE p.parent = make_partition.parent AND p.low < first_id
            AND abs(extract(epoch FROM webhookd.time_of(p.high) - first)) < 7200
    ), first_id);
    end_id := coalesce((
        SELECT p.low FROM webhookd.partitions p
        WHERE p.parent = make_partition.parent AND p.low > first_id
            AND abs(extract(epoch FROM webhookd.time_of(p.low) - first) - 168 * 3600) < 7200
    ), end_id);
    within := format('event_id IS NOT NULL AND event_id >= %L AND event_id < %L', first_id, end_id);

    EXECUTE format('SELECT count(*) FROM (SELECT FROM webhookd.%I WHERE %s LIMIT 10001) AS counted', others, within) INTO strays;
    IF strays > 10000 THEN
        RAISE EXCEPTION 'more than 10000 rows of the week from % are in %', first, others
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    excluded := strays = 0 AND first > now() + interval '1 day';
    IF excluded THEN
        -- ATTACH scans the default partition under a lock that keeps out writers. ATTACH does not scan if a constraint says that the default
        -- partition has no such rows. Adding the constraint unchecked takes a moment, and checking it locks out nobody. Meanwhile, the
        -- constraint refuses a row of that week, from a clock that is days ahead.
        EXECUTE format('ALTER TABLE webhookd.%I ADD CONSTRAINT webhookd_excluded CHECK (NOT (%s)) NOT VALID', others, within);
        COMMIT;
        PERFORM set_config('lock_timeout', '1s', true);
    END IF;
    BEGIN
        IF excluded THEN
            EXECUTE format('ALTER TABLE webhookd.%I VALIDATE CONSTRAINT webhookd_excluded', others);
        ELSE
            -- Lock the parent first. Otherwise, a session could look up the partitions before the move, and wait for the default
            -- partition only. That session would not find the moved rows there.
            EXECUTE format('LOCK TABLE ONLY webhookd.%I IN ACCESS EXCLUSIVE MODE', parent);
            EXECUTE format('LOCK TABLE webhookd.%I IN ACCESS EXCLUSIVE MODE', others);
        END IF;
        -- ATTACH, not CREATE … PARTITION OF, which locks out every reader and writer of the parent.
        EXECUTE format('CREATE TABLE webhookd.%I (LIKE webhookd.%I INCLUDING ALL)', child, parent);
        IF NOT excluded THEN
            EXECUTE format('WITH moved AS (DELETE FROM webhookd.%I WHERE %s RETURNING *) INSERT INTO webhookd.%I SELECT * FROM moved',
                           others, within, child);
        END IF;
        EXECUTE format('ALTER TABLE webhookd.%I ATTACH PARTITION webhookd.%I FOR VALUES FROM (%L) TO (%L)', parent, child, first_id, end_id);
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
    END;
    -- If the partition could not be made, rows of the week belong in the default partition. So the constraint must not stay and refuse
    -- these rows.
    EXECUTE format('ALTER TABLE webhookd.%I DROP CONSTRAINT IF EXISTS webhookd_excluded', others);
    IF state IS NOT NULL THEN
        COMMIT;
        RAISE EXCEPTION '%', message USING ERRCODE = state;
    END IF;
END
$procedure$;

-- Empties an old partition if no row in it is needed. TRUNCATE gives the disk space back at once, and locks this partition only. Nobody
-- reads or writes such an old partition, while a lock on the parent would keep out the receiver. Returns 'nothing' if there is no row to
-- remove, 'cleared' if the partition was emptied, or 'mixed' if some rows belong to events that are still needed. The function does not
-- write these rows anew after a TRUNCATE. A dump that began before would have neither the old rows nor the new rows.
CREATE FUNCTION webhookd.clear_partition(child text, age float8) RETURNS text
LANGUAGE plpgsql AS $function$
DECLARE
    first_id uuid;
    end_id   uuid;
    since    timestamptz := now() - make_interval(secs => age);
    needed   text := 'EXISTS (SELECT FROM webhookd.needed($1, $2, $3) AS n (id) WHERE n.id = c.event_id)';
    found    boolean;
BEGIN
    SELECT low, high INTO STRICT first_id, end_id FROM webhookd.partitions p WHERE p.child = clear_partition.child;
    -- The first turn checks before the lock, so that nobody waits behind the lock in vain. The second turn checks under the lock, when no
    -- more rows can come.
    FOR turn IN 1..2 LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s c WHERE NOT %s)', child::regclass, needed)
            INTO found USING first_id, end_id, since;
        IF NOT found THEN
            RETURN 'nothing';
        END IF;
        EXECUTE format('SELECT EXISTS (SELECT FROM %s c WHERE %s)', child::regclass, needed)
            INTO found USING first_id, end_id, since;
        IF found THEN
            RETURN 'mixed';
        END IF;
        IF turn = 1 THEN
            PERFORM set_config('lock_timeout', '3s', true);
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', child::regclass);
        END IF;
    END LOOP;
    EXECUTE format('TRUNCATE %s', child::regclass);
    RETURN 'cleared';
END
$function$;

-- Gives back the disk space of rows that were deleted from an old partition. CLUSTER writes the remaining rows anew, and locks this
-- partition only. Unlike TRUNCATE, CLUSTER leaves to each older snapshot the rows that the snapshot sees.
-- A session that reads the view events locks each partition of the audit trail, and waits during CLUSTER. So vacuum the deleted rows
-- before. Of three million rows, CLUSTER then writes the remaining rows anew within 0.2 s instead of 4 s. Returns true.
CREATE FUNCTION webhookd.compact_partition(child text) RETURNS boolean
LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM set_config('lock_timeout', '3s', true);
    EXECUTE format('CLUSTER %s USING %I', child::regclass, (
        SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = child::regclass AND i.indisvalid
        LIMIT 1
    ));
    RETURN true;
END
$function$;

-- Deletes rows of `child` with ids between `after` and `below`, but keeps rows of events that are still needed. One call looks at `most`
-- rows. `last` is the id after which the next call goes on, NULL at the end.
CREATE FUNCTION webhookd.trim_partition(
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
                SELECT
                FROM webhookd.needed(
                    (SELECT event_id FROM page ORDER BY event_id LIMIT 1),
                    (SELECT event_id FROM page ORDER BY event_id DESC LIMIT 1),
                    $3
                ) AS n (id)
                WHERE n.id = p.event_id
            )
            RETURNING c.event_id
        )
        SELECT (SELECT event_id FROM page ORDER BY event_id DESC LIMIT 1), (SELECT count(*) FROM gone)
        $query$, child::regclass)
    INTO last, removed USING after, below, now() - make_interval(secs => age), most;
END
$function$;

-- Drops a partition if it is empty; returns false if it is not empty. The function waits for its lock on the parent no longer than the
-- receiver can wait, because the receiver stands behind this lock in the queue. Call the function in a transaction of the level READ
-- COMMITTED, because rows that came before the locks were taken must be visible.
CREATE FUNCTION webhookd.drop_partition(child text) RETURNS boolean
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

-- Makes the first partitions: for this week and for the next four weeks. The daemon makes all later partitions.
DO $$
DECLARE
    parent text;
    child  text;
    first  timestamptz;
BEGIN
    FOR week IN 0..4 LOOP
        first := (date_trunc('week', now() AT TIME ZONE 'UTC') + week * interval '1 week') AT TIME ZONE 'UTC';
        FOREACH parent IN ARRAY ARRAY['bodies', 'audit'] LOOP
            child := format('%s_%s', parent, to_char(first AT TIME ZONE 'UTC', 'YYYYMMDD'));
            EXECUTE format('CREATE TABLE webhookd.%I PARTITION OF webhookd.%I FOR VALUES FROM (%L) TO (%L)',
                           child, parent, webhookd.first_id(first), webhookd.first_id(first + interval '1 week'));
        END LOOP;
    END LOOP;
END
$$;
