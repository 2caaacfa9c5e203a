-- Retention: partitions that are made ahead and emptied when they are old, without locking out the receiver.

CREATE VIEW webhookd.partitions AS
SELECT
    parent.relname::text AS parent,
    i.inhrelid::regclass::text AS child,
    bounds[1]::uuid AS low,
    bounds[2]::uuid AS high
FROM pg_inherits i
JOIN pg_class parent ON parent.oid = i.inhparent
JOIN pg_class child ON child.oid = i.inhrelid
-- No row for the default partition, nor for one that somebody made from MINVALUE or to MAXVALUE: retention leaves those alone.
CROSS JOIN LATERAL regexp_match(
    pg_get_expr(child.relpartbound, child.oid), $re$FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)$re$
) AS bounds
WHERE i.inhparent IN ('webhookd.bodies'::regclass, 'webhookd.audit'::regclass) AND bounds IS NOT NULL;
COMMENT ON VIEW webhookd.partitions IS 'The partitions of bodies and audit trail with two bounds: ids from low to below high.';

CREATE FUNCTION webhookd.time_of(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$function$;
COMMENT ON FUNCTION webhookd.time_of(uuid) IS 'The instant in a UUID version 7.';

CREATE FUNCTION webhookd.id_before(seconds float8) RETURNS uuid
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $function$
    SELECT webhookd.first_id(greatest(now() - make_interval(secs => seconds), to_timestamp(0)))
$function$;
COMMENT ON FUNCTION webhookd.id_before(float8) IS 'The lowest id of the instant so many seconds ago.';

CREATE FUNCTION webhookd.needed(low uuid, high uuid, since timestamptz) RETURNS SETOF uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $function$
    -- The function's `since` by its full name: the table work has a column of that name, which goes first.
    SELECT id FROM webhookd.ledger WHERE id BETWEEN low AND high AND received_at >= needed.since
    UNION ALL
    SELECT event_id FROM webhookd.work
    WHERE event_id BETWEEN low AND high AND (status <> 'discarded' OR discarded_at >= needed.since)
    UNION ALL
    SELECT event_id FROM webhookd.audit WHERE event_id BETWEEN low AND high AND at >= needed.since
$function$;
COMMENT ON FUNCTION webhookd.needed(uuid, uuid, timestamptz) IS
    'The events with ids from low to high that are needed, however old their ids are: they have not ended, wait for an operator, or came, ended or were discarded since.';

-- Makes the partition of `parent` for the week that begins at `first`. To be called outside a transaction.
CREATE PROCEDURE webhookd.make_partition(parent text, first timestamptz)
LANGUAGE plpgsql AS $procedure$
DECLARE
    -- 168 hours: over a change to summer time, a week is another number of them in the session's time zone.
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
    -- What a crash left behind refuses rows, so it goes first and for good, whatever becomes of the rest.
    PERFORM set_config('lock_timeout', '1s', true);
    EXECUTE format('ALTER TABLE webhookd.%I DROP CONSTRAINT IF EXISTS webhookd_excluded', others);
    COMMIT;
    PERFORM set_config('lock_timeout', '1s', true);

    -- Where a neighbour ends or begins an hour beside the week, this one goes up to it.
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
        -- Attaching scans the default partition under a lock that keeps out writers, unless a constraint says that it has
        -- no such rows; adding it unchecked is a matter of a moment, and checking it locks out nobody. A row of that week,
        -- from a clock that is days ahead, is refused meanwhile.
        EXECUTE format('ALTER TABLE webhookd.%I ADD CONSTRAINT webhookd_excluded CHECK (NOT (%s)) NOT VALID', others, within);
        COMMIT;
        PERFORM set_config('lock_timeout', '1s', true);
    END IF;
    BEGIN
        IF excluded THEN
            EXECUTE format('ALTER TABLE webhookd.%I VALIDATE CONSTRAINT webhookd_excluded', others);
        ELSE
            -- The parent first: who had looked up the partitions before, and waited for the default one only, would not find
            -- there what has been moved.
            EXECUTE format('LOCK TABLE ONLY webhookd.%I IN ACCESS EXCLUSIVE MODE', parent);
            EXECUTE format('LOCK TABLE webhookd.%I IN ACCESS EXCLUSIVE MODE', others);
        END IF;
        -- ATTACH rather than CREATE … PARTITION OF: the latter locks out every reader and writer of the parent.
        EXECUTE format('CREATE TABLE webhookd.%I (LIKE webhookd.%I INCLUDING ALL)', child, parent);
        IF NOT excluded THEN
            EXECUTE format('WITH moved AS (DELETE FROM webhookd.%I WHERE %s RETURNING *) INSERT INTO webhookd.%I SELECT * FROM moved',
                           others, within, child);
        END IF;
        EXECUTE format('ALTER TABLE webhookd.%I ATTACH PARTITION webhookd.%I FOR VALUES FROM (%L) TO (%L)', parent, child, first_id, end_id);
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
    END;
    -- Without its partition, the week's rows belong into the default one, which must not go on refusing them.
    EXECUTE format('ALTER TABLE webhookd.%I DROP CONSTRAINT IF EXISTS webhookd_excluded', others);
    IF state IS NOT NULL THEN
        COMMIT;
        RAISE EXCEPTION '%', message USING ERRCODE = state;
    END IF;
END
$procedure$;

-- Empties an old partition in which no row is needed. By TRUNCATE, which gives the disk back at once and locks this partition
-- only: nobody reads or writes one so old, while a lock on its parent keeps out the receiver. Returns 'nothing' where there was
-- nothing to remove, 'cleared', or 'mixed' where rows of events that stand are among the others. Those are not written anew
-- behind a TRUNCATE: a dump that began before would have neither the old rows nor the new ones.
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
    -- Before the lock, so that nobody waits behind it in vain; and under the lock, when no row comes any more.
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

-- Gives back the disk space of rows that were deleted from an old partition. CLUSTER writes anew what stays and locks this partition
-- only; unlike TRUNCATE, it leaves to each older snapshot what that one sees.
-- Whoever reads the view of events locks each partition of the audit trail, and waits meanwhile. So the deleted rows are to be vacuumed
-- before: of three million rows, those that stay are then written anew within 0.2 s instead of 4 s. Returns true.
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

-- Deletes rows of `child` with ids between `after` and `below`, but those of events that stand; looks at `most` rows.
-- `last` is where to go on, NULL at the end.
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

-- Drops a partition that is empty; false where it is not. Waits for its lock on the parent no longer than the receiver,
-- which stands behind it in the queue, can wait. To be called in a transaction that reads what is committed: what came before
-- the locks were there must be seen.
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

-- The first partitions: this week's and four weeks ahead. From then on the daemon makes them.
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
