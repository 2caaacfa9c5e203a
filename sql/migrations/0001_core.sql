-- Events, their bodies, the audit trail, aliases and quarantine.
-- depends:

-- migrate: apply

-- Which database this is. It prefixes every Redis key, so that two installations that share one Redis can never take
-- each other's events for their own.
CREATE TABLE instance (
    id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now(),
    only_one   boolean     PRIMARY KEY DEFAULT true CHECK (only_one)
);
INSERT INTO instance DEFAULT VALUES;

-- The hot table: small rows, not partitioned, since a unique key over a partitioned table would be unique per partition only.
-- Ids are UUID version 7: in order of time, made by the receiver, and unique over all replicas.
CREATE TABLE events (
    id                  uuid        PRIMARY KEY,
    account             text        NOT NULL,
    notification_id     text        NOT NULL,
    event_type          text        NOT NULL,
    status              text        NOT NULL DEFAULT 'received'
        CONSTRAINT events_status_known CHECK (status IN ('received', 'queued', 'retrying', 'processed', 'dead')),
    attempts            integer     NOT NULL DEFAULT 0,
    received_at         timestamptz NOT NULL DEFAULT now(),
    event_date          timestamptz,
    entity_name         text,
    entity_id           text,
    invoice_number      text,
    merchant_reference  text,
    key_fingerprint     text        NOT NULL,
    content_hash        bytea,
    body_hash           bytea       NOT NULL,
    sends               integer     NOT NULL DEFAULT 0,
    send_after          timestamptz NOT NULL,
    retry_at            timestamptz,
    finished_at         timestamptz,
    last_error          text,
    dead_reason         text,
    dead_letter_sent_at timestamptz,
    CONSTRAINT events_notification_key UNIQUE (account, notification_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

COMMENT ON TABLE events IS 'One row for each authentic notification; its status is the truth about its processing.';
COMMENT ON COLUMN events.notification_id IS 'The provider''s id, in lower case.';
COMMENT ON COLUMN events.content_hash IS 'Over account, type, date and payload: finds one event that came through two registered webhooks. NULL where date or payload is missing.';
COMMENT ON COLUMN events.body_hash IS 'Over the exact bytes: tells a repeated notification from another body under the same id.';
COMMENT ON COLUMN events.send_after IS 'From when on the sweeper sends this unfinished event to SQS (again). A claim by a sweeper moves it ahead, as a lease.';
COMMENT ON COLUMN events.last_error IS 'The last failed attempt, in full; may quote what a handler saw.';
COMMENT ON COLUMN events.dead_reason IS 'Why the event is dead, as it may leave the database: no customer data.';
COMMENT ON COLUMN events.dead_letter_sent_at IS 'When a copy of a dead event reached the dead-letter queue; NULL while it is owed.';

CREATE UNIQUE INDEX events_content_key ON events (content_hash);
-- The outbox ('received') and what was sent long ago and has not ended ('queued', 'retrying'), in the order of being due.
CREATE INDEX events_outbox ON events (status, send_after) WHERE status IN ('received', 'queued', 'retrying');
-- The age of the oldest unfinished event, without a scan.
CREATE INDEX events_unfinished ON events (received_at) WHERE status IN ('received', 'queued', 'retrying');
CREATE INDEX events_dead ON events (finished_at) WHERE status = 'dead';
CREATE INDEX events_dead_letter_owed ON events (finished_at) WHERE status = 'dead' AND dead_letter_sent_at IS NULL;

-- The exact bytes, apart from the hot table. Partitioned by the time in the event's id, so that retention drops whole
-- partitions and a look-up by id alone reads one of them.
CREATE TABLE event_bodies (
    event_id uuid  PRIMARY KEY,
    body     bytea NOT NULL
) PARTITION BY RANGE (event_id);
CREATE TABLE event_bodies_default PARTITION OF event_bodies DEFAULT;
COMMENT ON TABLE event_bodies_default IS 'What a wrong clock put outside every partition; empty in health.';

-- Every change of an event's status: from, to, when, by whom, why.
CREATE TABLE event_audit (
    event_id    uuid        NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_status text,
    to_status   text        NOT NULL,
    actor       text        NOT NULL,
    attempt     integer,
    reason      text
) PARTITION BY RANGE (event_id);
CREATE INDEX event_audit_event ON event_audit (event_id, at);
CREATE TABLE event_audit_default PARTITION OF event_audit DEFAULT;

-- Further notification ids of one event: the same content through a second registered webhook.
CREATE TABLE notification_aliases (
    account         text        NOT NULL,
    notification_id text        NOT NULL,
    event_id        uuid        NOT NULL,
    body_hash       bytea       NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, notification_id)
);

-- Authentic bodies that cannot become events, with the reason; they can be released later.
CREATE TABLE quarantine (
    id              uuid        PRIMARY KEY,
    account         text        NOT NULL,
    reason          text        NOT NULL,
    detail          text        NOT NULL,
    key_fingerprint text        NOT NULL,
    body            bytea       NOT NULL,
    body_hash       bytea       NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    times_received  integer     NOT NULL DEFAULT 1,
    CONSTRAINT quarantine_body_key UNIQUE (account, body_hash)
);
CREATE INDEX quarantine_received ON quarantine (received_at);

-- The lowest UUID version 7 of an instant.
CREATE FUNCTION webhookd_first_id(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT (lpad(to_hex(floor(extract(epoch FROM instant) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$function$;

-- Makes the weekly partitions of bodies and audit trail from the present week to `weeks` ahead; returns how many are new.
-- ATTACH rather than CREATE … PARTITION OF: the latter locks out every reader and writer of the parent.
CREATE FUNCTION webhookd_make_partitions(weeks integer) RETURNS integer
LANGUAGE plpgsql AS $function$
DECLARE
    parent text;
    child  text;
    first  timestamptz;
    made   integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('webhookd partitions'));
    PERFORM set_config('lock_timeout', '3s', true);
    FOR week IN 0..weeks LOOP
        first := (date_trunc('week', now() AT TIME ZONE 'UTC') + week * interval '1 week') AT TIME ZONE 'UTC';
        FOREACH parent IN ARRAY ARRAY['event_bodies', 'event_audit'] LOOP
            child := format('%s_%s', parent, to_char(first AT TIME ZONE 'UTC', 'YYYYMMDD'));
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           parent, child, webhookd_first_id(first), webhookd_first_id(first + interval '1 week'));
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$function$;
SELECT webhookd_make_partitions(4);

-- migrate: rollback

DROP FUNCTION webhookd_make_partitions(integer);
DROP TABLE quarantine, notification_aliases, event_audit, event_bodies, events, instance;
DROP FUNCTION webhookd_first_id(timestamptz);
