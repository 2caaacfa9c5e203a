-- What an operator does and sees: bulk operations, statistics, sessions, samples of refused webhooks.

-- Bulk work on events. Whichever process holds a row does a batch at a time, and records it here in the batch's own
-- transaction: one that dies leaves its work to another, which goes on where it ended.
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
COMMENT ON COLUMN webhookd.operations.selection IS 'Which events, as the operator gave it.';
COMMENT ON COLUMN webhookd.operations.after_at IS 'With after_id: the place up to which the selection has been counted, or worked on.';

CREATE FUNCTION webhookd.kinds_of(event_types text[], account text) RETURNS bigint[]
LANGUAGE sql STABLE PARALLEL SAFE AS $function$
    SELECT CASE WHEN event_types IS NOT NULL OR kinds_of.account IS NOT NULL THEN ARRAY(
        SELECT id FROM webhookd.kinds k
        WHERE (event_types IS NULL OR k.event_type LIKE ANY(event_types)) AND (kinds_of.account IS NULL OR k.account = kinds_of.account)
    ) END
$function$;
COMMENT ON FUNCTION webhookd.kinds_of(text[], text) IS
    'The kinds that the filters choose; NULL if neither is given. `event_types` are patterns for LIKE. As a subselect, it is called once for a statement.';

-- `kinds` stands here once: PostgreSQL would not put the function's body in its place if an argument with a subselect stood there twice.
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
    'Whether the filters choose an event; NULL stands for any. `status` is that of its work, NULL if it has none. `kinds` are those of kinds_of.';

-- What the daemons counted, by steps of time: each adds what it counted since it last did. Rows of long steps are few, so that
-- a window of any length is read from some hundreds.
CREATE TABLE webhookd.statistics (
    step       integer     NOT NULL,
    at         timestamptz NOT NULL,
    measure    text        NOT NULL,
    event_type text        NOT NULL,
    counts     bigint[]    NOT NULL,
    PRIMARY KEY (step, at, measure, event_type)
);
COMMENT ON COLUMN webhookd.statistics.step IS 'Seconds from `at` on that the row counts.';
COMMENT ON COLUMN webhookd.statistics.counts IS 'One number; for a latency, one for each bucket of its histogram.';

-- What the daemons measured of what they share; of a step, the highest.
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
COMMENT ON FUNCTION webhookd.step(integer, timestamptz) IS 'The beginning of the step of so many seconds that an instant is in.';

CREATE FUNCTION webhookd.add_counts(a bigint[], b bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY place) FROM unnest(a, b) WITH ORDINALITY AS both_of (x, y, place)
$function$;
COMMENT ON FUNCTION webhookd.add_counts(bigint[], bigint[]) IS 'The sum of two arrays, place by place.';

-- Sessions of the dashboard that were ended before their time, for every replica.
CREATE TABLE webhookd.ended_sessions (
    id         uuid        PRIMARY KEY,
    kept_until timestamptz NOT NULL
);
CREATE INDEX ended_sessions_kept ON webhookd.ended_sessions (kept_until);
COMMENT ON COLUMN webhookd.ended_sessions.kept_until IS 'From then on the session''s own time is over, and nobody need remember it.';

-- Samples of refused webhooks. A bounded number for each account and outcome. Nothing here is authentic: strangers chose it, and a text of theirs stands here
-- cut and escaped.
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
COMMENT ON COLUMN webhookd.refused_webhooks.account IS 'By the path; unknown for a path of no account.';
COMMENT ON COLUMN webhookd.refused_webhooks.peer IS 'The address of the connection: behind a proxy, the proxy.';
COMMENT ON COLUMN webhookd.refused_webhooks.forwarded_for IS 'What X-Forwarded-For says. Anyone can write that header.';
COMMENT ON COLUMN webhookd.refused_webhooks.header_shape IS 'How the signature header is written, without its value.';
COMMENT ON COLUMN webhookd.refused_webhooks.body_length IS 'Bytes, as read or as announced; NULL for a body of unknown length.';
COMMENT ON COLUMN webhookd.refused_webhooks.first_bytes IS 'At most 200 bytes of the body, escaped, with card numbers, addresses and the values of forms masked.';
