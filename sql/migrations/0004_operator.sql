-- For operators: bulk operations, statistics, sessions of the dashboard, and samples of refused webhooks.

-- Bulk work on events. The process that holds a row does one batch at a time, and records the batch here in the same transaction. If that
-- process dies, another process goes on where the recorded work ended.
CREATE TABLE webhookd.operations (
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
CREATE INDEX operations_unfinished ON webhookd.operations (created_at) WHERE finished_at IS NULL;
COMMENT ON COLUMN webhookd.operations.selection IS 'Which events the operation is for, as the operator gave the selection.';
COMMENT ON COLUMN webhookd.operations.after_at IS
    'Together with after_id: the place up to which the selection has been counted, or worked on.';

CREATE FUNCTION webhookd.kinds_of(event_types text[], account text) RETURNS bigint[]
LANGUAGE sql STABLE PARALLEL SAFE AS $function$
    SELECT CASE WHEN event_types IS NOT NULL OR kinds_of.account IS NOT NULL THEN ARRAY(
        SELECT id FROM webhookd.kinds k
        WHERE (event_types IS NULL OR k.event_type LIKE ANY(event_types)) AND (kinds_of.account IS NULL OR k.account = kinds_of.account)
    ) END
$function$;
COMMENT ON FUNCTION webhookd.kinds_of(text[], text) IS
    'The kinds that the filters choose. NULL if neither filter is given. `event_types` are patterns for LIKE. If the call stands in a '
    'subselect, PostgreSQL calls the function once for each statement.';

-- The body uses `kinds` once. If the body used it twice, and the argument had a subselect, PostgreSQL would not put the body in place of
-- the call.
CREATE FUNCTION webhookd.chosen(
    l webhookd.ledger, status text, statuses text[], kinds bigint[], entity_id text, invoice_number text,
    merchant_reference text, received_from timestamptz, received_to timestamptz
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
    SELECT (statuses IS NULL OR webhookd.status_of(chosen.status) = ANY(statuses))
        AND (l.kind = ANY(kinds)) IS NOT FALSE
        AND (chosen.entity_id IS NULL OR l.entity_id = chosen.entity_id)
        AND (chosen.invoice_number IS NULL OR l.invoice_number = chosen.invoice_number)
        AND (chosen.merchant_reference IS NULL OR l.merchant_reference = chosen.merchant_reference)
        AND (received_from IS NULL OR l.received_at >= received_from) AND (received_to IS NULL OR l.received_at < received_to)
$function$;
COMMENT ON FUNCTION webhookd.chosen(webhookd.ledger, text, text[], bigint[], text, text, text, timestamptz, timestamptz) IS
    'Whether the filters choose an event. NULL stands for any value. `status` is the status of the event''s work, NULL if the event has '
    'no work. `kinds` is the result of kinds_of.';

-- The counts of the daemons, by steps of time. Each daemon adds its counts since its last addition. Long steps have few rows. So a window
-- of any length is read from some hundreds of rows.
CREATE TABLE webhookd.statistics (
    step       integer     NOT NULL,
    at         timestamptz NOT NULL,
    measure    text        NOT NULL,
    event_type text        NOT NULL,
    counts     bigint[]    NOT NULL,
    PRIMARY KEY (step, at, measure, event_type)
);
COMMENT ON COLUMN webhookd.statistics.step IS 'The length of the step in seconds, from `at` on.';
COMMENT ON COLUMN webhookd.statistics.counts IS 'One number. For a latency: one number for each bucket of the histogram.';

-- Measurements by the daemons of the things that they share. Each step keeps the highest value.
CREATE TABLE webhookd.statistics_gauges (
    step  integer     NOT NULL,
    at    timestamptz NOT NULL,
    gauge text        NOT NULL,
    value float8      NOT NULL,
    PRIMARY KEY (step, at, gauge)
);

CREATE FUNCTION webhookd.step(step integer, instant timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT date_bin(make_interval(secs => step), instant, timestamptz '2000-01-01 00:00:00+00')
$function$;
COMMENT ON FUNCTION webhookd.step(integer, timestamptz) IS
    'The beginning of the step that an instant is in. `step` is the length of the step in seconds.';

CREATE FUNCTION webhookd.add_counts(a bigint[], b bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY place) FROM unnest(a, b) WITH ORDINALITY AS both_of (x, y, place)
$function$;
COMMENT ON FUNCTION webhookd.add_counts(bigint[], bigint[]) IS 'The sum of two arrays, element by element.';

-- Sessions of the dashboard that were ended before they expired, for every replica.
CREATE TABLE webhookd.ended_sessions (
    id         uuid        PRIMARY KEY,
    kept_until timestamptz NOT NULL
);
CREATE INDEX ended_sessions_kept ON webhookd.ended_sessions (kept_until);
COMMENT ON COLUMN webhookd.ended_sessions.kept_until IS 'After this time, the session has expired by itself, and no replica needs the row.';

-- Samples of refused webhooks: a bounded number for each account and outcome. Nothing here is authentic, because strangers chose the
-- contents. Each text of a stranger is stored cut and escaped.
CREATE TABLE webhookd.refused_webhooks (
    id            uuid        PRIMARY KEY,
    refused_at    timestamptz NOT NULL,
    account       text        NOT NULL,
    outcome       text        NOT NULL,
    status        integer     NOT NULL,
    path          text        NOT NULL,
    peer          text        NOT NULL,
    forwarded_for text,
    header_shape  text        NOT NULL,
    content_type  text,
    body_length   bigint,
    first_bytes   text        NOT NULL,
    finding       text        NOT NULL,
    likely        text        NOT NULL
);
CREATE INDEX refused_webhooks_newest ON webhookd.refused_webhooks (refused_at, id);
CREATE INDEX refused_webhooks_group ON webhookd.refused_webhooks (account, outcome);
COMMENT ON COLUMN webhookd.refused_webhooks.account IS 'The account in the path, or unknown if the path belongs to no account.';
COMMENT ON COLUMN webhookd.refused_webhooks.peer IS 'The address of the connection. Behind a proxy, this is the address of the proxy.';
COMMENT ON COLUMN webhookd.refused_webhooks.forwarded_for IS 'The value of the header X-Forwarded-For. Anyone can write that header.';
COMMENT ON COLUMN webhookd.refused_webhooks.header_shape IS 'How the signature header is written, without its value.';
COMMENT ON COLUMN webhookd.refused_webhooks.body_length IS 'Bytes of the body, as read or as announced. NULL if the length is unknown.';
COMMENT ON COLUMN webhookd.refused_webhooks.first_bytes IS
    'At most 200 bytes of the body, escaped. Card numbers, e-mail addresses and the values of forms are masked.';
