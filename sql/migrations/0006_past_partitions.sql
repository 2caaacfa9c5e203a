-- The partition of a week that is over is made without a lock that keeps out the receiver, as that of a future week.

-- Makes the partition of `parent` for the week that begins at `first`. Call this procedure outside a transaction, because it commits.
-- Only if rows of the week are in the default partition, or if the week is the present one, a lock on the parent is needed.
-- 0.3.0 calls the procedure in the same way, and for the weeks that it asks for, only the wait for a lock is shorter.
-- squawk-ignore ban-replace-view-function
CREATE OR REPLACE PROCEDURE webhookd.make_partition(parent text, first timestamptz)
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
    excluded := strays = 0 AND (first > now() + interval '1 day' OR first + interval '168 hours' < now() - interval '1 day');
    IF excluded THEN
        -- ATTACH scans the default partition under a lock that keeps out writers. ATTACH does not scan if a constraint says that the default
        -- partition has no such rows. Adding the constraint unchecked takes a moment, and checking it locks out nobody. Meanwhile, the
        -- constraint refuses a row of that week: from a clock that is days off, or from another import.
        EXECUTE format('ALTER TABLE webhookd.%I ADD CONSTRAINT webhookd_excluded CHECK (NOT (%s)) NOT VALID', others, within);
        COMMIT;
        PERFORM set_config('lock_timeout', '1s', true);
    END IF;
    BEGIN
        IF excluded THEN
            EXECUTE format('ALTER TABLE webhookd.%I VALIDATE CONSTRAINT webhookd_excluded', others);
        ELSE
            -- Lock the parent first. Otherwise, a session could look up the partitions before the move, and wait for the default
            -- partition only. That session would not find the moved rows there. The receiver stands behind this lock in the queue, so the wait
            -- for the lock is short.
            PERFORM set_config('lock_timeout', '300ms', true);
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
