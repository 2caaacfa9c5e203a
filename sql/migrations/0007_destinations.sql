-- Destinations: the deliveries of events to HTTP endpoints that are still to be made, and the destinations that operators paused.

-- One row for each event and destination, until the destination has accepted the event, or an operator has dropped the delivery. So the
-- rows of this table are the truth about what is still to be sent. The table is apart from `work`, so that the hot indexes of `work` stay as
-- small as they are, and so that a release that knows no destinations goes on.
CREATE TABLE webhookd.deliveries (
    event_id     uuid        NOT NULL,
    due          timestamptz NOT NULL DEFAULT now(),
    since        timestamptz NOT NULL DEFAULT now(),
    redriven_at  timestamptz,
    attempts     integer     NOT NULL DEFAULT 0,
    sends        integer     NOT NULL DEFAULT 0,
    last_status  integer,
    last_seconds float8,
    destination  text        NOT NULL,
    status       text        NOT NULL DEFAULT 'waiting'
        CONSTRAINT deliveries_status_known CHECK (status IN ('waiting', 'retrying', 'dead')),
    last_error   text,
    last_answer  text,
    PRIMARY KEY (event_id, destination)
) WITH (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
COMMENT ON TABLE webhookd.deliveries IS
    'The deliveries that are still to be made: one row for each event and destination that has not accepted the event.';
COMMENT ON COLUMN webhookd.deliveries.due IS
    'Waiting or retrying: when the next attempt may begin. Dead: when the delivery died. A sender that takes a delivery moves due ahead, '
    'as a lease. So due is the version of the row.';
COMMENT ON COLUMN webhookd.deliveries.since IS 'The time from which the delivery waits: the receipt, or the last redrive.';
COMMENT ON COLUMN webhookd.deliveries.sends IS
    'How often the delivery was taken for sending since the last attempt whose result is recorded.';
COMMENT ON COLUMN webhookd.deliveries.last_status IS 'The HTTP status of the last failed attempt. NULL if there was no answer.';
COMMENT ON COLUMN webhookd.deliveries.last_seconds IS 'How many seconds the last failed attempt took.';
COMMENT ON COLUMN webhookd.deliveries.last_answer IS
    'The beginning of the body of the last failed answer, up to 2,000 characters. The text may quote customer data.';

-- Deliveries wait in two lanes, each in the order of `due`: those that were not tried yet or were redriven, and those that failed. Dead
-- deliveries are read in the order of the deaths. The indexes are partial, so that no look-up by an event's id can read them: with
-- statistics of an hour in which nothing waited, PostgreSQL would rate an index on all rows as good as the primary key.
CREATE INDEX deliveries_waiting ON webhookd.deliveries (destination, due) WHERE status = 'waiting';
CREATE INDEX deliveries_retrying ON webhookd.deliveries (destination, due) WHERE status = 'retrying';
CREATE INDEX deliveries_dead ON webhookd.deliveries (destination, due) WHERE status = 'dead';

CREATE TABLE webhookd.paused_destinations (
    destination text        PRIMARY KEY,
    paused_at   timestamptz NOT NULL DEFAULT now(),
    paused_by   text        NOT NULL
);
COMMENT ON TABLE webhookd.paused_destinations IS
    'The destinations that operators paused. While a destination has a row here, no replica takes one of its deliveries.';

-- The function keeps its arguments and its result. The release before calls it, too, and must also keep the bodies that are still to be
-- delivered.
-- squawk-ignore ban-replace-view-function
CREATE OR REPLACE FUNCTION webhookd.needed(low uuid, high uuid, since timestamptz) RETURNS SETOF uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $function$
    -- `needed.since` is the parameter. Without the function's name, PostgreSQL would take the column `since` of the table work, which
    -- goes first.
    SELECT id FROM webhookd.ledger WHERE id BETWEEN low AND high AND received_at >= needed.since
    UNION ALL
    SELECT event_id FROM webhookd.work
    WHERE event_id BETWEEN low AND high AND (status <> 'discarded' OR discarded_at >= needed.since)
    UNION ALL
    SELECT event_id FROM webhookd.deliveries WHERE event_id BETWEEN low AND high
    UNION ALL
    SELECT event_id FROM webhookd.audit WHERE event_id BETWEEN low AND high AND at >= needed.since
$function$;
