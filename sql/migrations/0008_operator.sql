-- What an operator does and sees: bulk operations, handled quarantine, statistics.
-- depends: 0007_vacuum

-- migrate: apply

-- Bulk work on events. Whichever process holds a row does a batch at a time, and records it here in the batch's own
-- transaction: one that dies leaves its work to another, which goes on where it ended.
CREATE TABLE operations (
    id          uuid        PRIMARY KEY,
    kind        text        NOT NULL CHECK (kind IN ('replay', 'redrive', 'discard')),
    state       text        NOT NULL DEFAULT 'counting'
        CHECK (state IN ('counting', 'working', 'done', 'cancelled', 'failed')),
    dry_run     boolean     NOT NULL,
    actor       text        NOT NULL,
    reason      text        NOT NULL,
    selection   jsonb       NOT NULL,
    rate        float8      NOT NULL,
    max_events  bigint,
    total       bigint      NOT NULL DEFAULT 0,
    done        bigint      NOT NULL DEFAULT 0,
    skipped     bigint      NOT NULL DEFAULT 0,
    held_by     text,
    error       text,
    event_types jsonb       NOT NULL DEFAULT '{}',
    reasons     jsonb       NOT NULL DEFAULT '{}',
    after_at    timestamptz NOT NULL DEFAULT '-infinity',
    after_id    uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    holder      uuid,
    held_until  timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE INDEX operations_unfinished ON operations (created_at) WHERE finished_at IS NULL;
COMMENT ON COLUMN operations.selection IS 'Which events, as the operator gave it.';
COMMENT ON COLUMN operations.after_at IS 'With after_id: the place up to which the selection has been counted, or worked on.';

ALTER TABLE quarantine
    ADD COLUMN handled_at timestamptz,
    ADD COLUMN handled_by text,
    ADD COLUMN outcome    text CHECK (outcome IN ('released', 'discarded')),
    ADD COLUMN note       text,
    ADD COLUMN event_id   uuid;
CREATE INDEX quarantine_waiting ON quarantine (id) WHERE handled_at IS NULL;
COMMENT ON COLUMN quarantine.event_id IS 'The event that a released body became, or that it repeats.';

CREATE FUNCTION webhookd_chosen(
    e events, statuses text[], event_types text[], account text, entity_id text, invoice_number text, merchant_reference text,
    received_from timestamptz, received_to timestamptz
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
    SELECT (statuses IS NULL OR e.status = ANY(statuses))
        AND (event_types IS NULL OR e.event_type LIKE ANY(event_types))
        AND (webhookd_chosen.account IS NULL OR e.account = webhookd_chosen.account)
        AND (webhookd_chosen.entity_id IS NULL OR e.entity_id = webhookd_chosen.entity_id)
        AND (webhookd_chosen.invoice_number IS NULL OR e.invoice_number = webhookd_chosen.invoice_number)
        AND (webhookd_chosen.merchant_reference IS NULL OR e.merchant_reference = webhookd_chosen.merchant_reference)
        AND (received_from IS NULL OR e.received_at >= received_from) AND (received_to IS NULL OR e.received_at < received_to)
$function$;
COMMENT ON FUNCTION webhookd_chosen(events, text[], text[], text, text, text, text, timestamptz, timestamptz) IS
    'Whether the filters choose an event; NULL stands for any. `event_types` are patterns for LIKE.';

-- What the daemons counted, by steps of time: each adds what it counted since it last did. Rows of long steps are few, so that
-- a window of any length is read from some hundreds.
CREATE TABLE statistics (
    step       integer     NOT NULL,
    at         timestamptz NOT NULL,
    measure    text        NOT NULL,
    event_type text        NOT NULL,
    counts     bigint[]    NOT NULL,
    PRIMARY KEY (step, at, measure, event_type)
);
COMMENT ON COLUMN statistics.step IS 'Seconds from `at` on that the row counts.';
COMMENT ON COLUMN statistics.counts IS 'One number; for a latency, one for each bucket of its histogram.';

-- What the daemons measured of what they share; of a step, the highest.
CREATE TABLE statistics_gauges (
    step  integer     NOT NULL,
    at    timestamptz NOT NULL,
    gauge text        NOT NULL,
    value float8      NOT NULL,
    PRIMARY KEY (step, at, gauge)
);

CREATE FUNCTION webhookd_step(step integer, instant timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT date_bin(make_interval(secs => step), instant, timestamptz '2000-01-01 00:00:00+00')
$function$;
COMMENT ON FUNCTION webhookd_step(integer, timestamptz) IS 'The beginning of the step of so many seconds that an instant is in.';

CREATE FUNCTION webhookd_sum(a bigint[], b bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY place) FROM unnest(a, b) WITH ORDINALITY AS both_of (x, y, place)
$function$;
COMMENT ON FUNCTION webhookd_sum(bigint[], bigint[]) IS 'The sum of two arrays, place by place.';

-- migrate: rollback

DROP FUNCTION webhookd_sum(bigint[], bigint[]);
DROP FUNCTION webhookd_step(integer, timestamptz);
DROP TABLE statistics_gauges, statistics;
DROP FUNCTION webhookd_chosen(events, text[], text[], text, text, text, text, timestamptz, timestamptz);
DROP INDEX quarantine_waiting;
ALTER TABLE quarantine DROP COLUMN handled_at, DROP COLUMN handled_by, DROP COLUMN outcome, DROP COLUMN note, DROP COLUMN event_id;
DROP TABLE operations;
