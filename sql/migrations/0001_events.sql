-- Events, their bodies, the audit trail, aliases and quarantine.

-- Which database this is. It prefixes every Redis key, so that two installations that share one Redis can never take
-- each other's events for their own.
CREATE TABLE webhookd.instance (
    id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now(),
    only_one   boolean     PRIMARY KEY DEFAULT true CHECK (only_one)
);
INSERT INTO webhookd.instance DEFAULT VALUES;

CREATE TABLE webhookd.secrets (
    name  text  PRIMARY KEY,
    value bytea NOT NULL
);
COMMENT ON TABLE webhookd.secrets IS 'Random secrets that every replica shares. Whoever can read them can revive dead events by a message in the queue.';

-- gen_random_uuid() draws from the operating system's source of randomness: 244 bits here.
INSERT INTO webhookd.secrets (name, value)
VALUES ('dead-letter copies', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- What one replica at a time does for all of them. A duty is taken for a while, and falls to another replica if its holder does not
-- take it again in time.
CREATE TABLE webhookd.duties (
    name       text        PRIMARY KEY,
    holder     uuid        NOT NULL,
    held_until timestamptz NOT NULL
);

-- The hot table: small rows, not partitioned, since a unique key over a partitioned table would be unique per partition only.
-- Ids are UUID version 7: in order of time, made by the receiver, and unique over all replicas.
CREATE TABLE webhookd.events (
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
    discarded_at        timestamptz,
    redriven_at         timestamptz,
    traceparent         text,
    CONSTRAINT events_notification_key UNIQUE (account, notification_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);

-- Each vacuum reads every index, and writes most pages of that of the notification ids to the WAL: about 50 us of PostgreSQL for each
-- event if it came after a fiftieth of the rows, hence a tenth. What waits is found in a millisecond past half a million ended events.
COMMENT ON TABLE webhookd.events IS 'One row for each authentic notification; its status is the truth about its processing.';
COMMENT ON COLUMN webhookd.events.notification_id IS 'The provider''s id, in lower case.';
COMMENT ON COLUMN webhookd.events.content_hash IS 'Over account, type, date and payload: finds one event that came through two registered webhooks. NULL where date or payload is missing.';
COMMENT ON COLUMN webhookd.events.body_hash IS 'Over the exact bytes: tells a repeated notification from another body under the same id.';
COMMENT ON COLUMN webhookd.events.send_after IS 'From when on the sweeper sends this unfinished event to SQS (again). A claim by a sweeper moves it ahead, as a lease.';
COMMENT ON COLUMN webhookd.events.last_error IS 'The last failed attempt, in full; may quote what a handler saw.';
COMMENT ON COLUMN webhookd.events.dead_reason IS 'Why the event is dead, as it may leave the database: no customer data.';
COMMENT ON COLUMN webhookd.events.dead_letter_sent_at IS 'When a copy of a dead event reached the dead-letter queue; NULL while it is owed.';
COMMENT ON COLUMN webhookd.events.discarded_at IS 'When an operator discarded this dead event: it has no copy in the dead-letter queue, and retention may remove it.';
COMMENT ON COLUMN webhookd.events.redriven_at IS 'When an operator last put this event back: it is sent after fresh ones, and its age counts from here.';
COMMENT ON COLUMN webhookd.events.traceparent IS 'The span of the webhook''s receipt, as W3C Trace Context writes it; NULL if the receiver did not trace.';

CREATE UNIQUE INDEX events_content_key ON webhookd.events (content_hash);
-- The outbox ('received') and what was sent long ago and has not ended ('queued', 'retrying'), in the order of being due. What an
-- operator has put back is found apart from what is fresh, so that neither is read past to reach the other.
CREATE INDEX events_outbox ON webhookd.events (status, send_after)
    WHERE status IN ('received', 'queued', 'retrying') AND redriven_at IS NULL;
CREATE INDEX events_redriven ON webhookd.events (status, send_after)
    WHERE status IN ('received', 'queued', 'retrying') AND redriven_at IS NOT NULL;
-- The age of the oldest unfinished event, without a scan.
CREATE INDEX events_unfinished ON webhookd.events (coalesce(redriven_at, received_at)) WHERE status IN ('received', 'queued', 'retrying');
-- Dead events are read in the order of their deaths, a page at a time. The id is the second key: without it, each page would sort all
-- that died at one instant.
CREATE INDEX events_dead_place ON webhookd.events (finished_at, id) WHERE status = 'dead';
-- The dead that wait for an operator, apart from the discarded ones: each look at the statistics counts them from this index alone.
CREATE INDEX events_dead_waiting_place ON webhookd.events (finished_at, id) WHERE status = 'dead' AND discarded_at IS NULL;
CREATE INDEX events_dead_letter_owed ON webhookd.events (finished_at) WHERE status = 'dead' AND dead_letter_sent_at IS NULL;
-- Events are found by what a person knows of them: the entity's id, the invoice number, the merchant's reference.
CREATE INDEX events_entity ON webhookd.events (entity_id, id) WHERE entity_id IS NOT NULL;
CREATE INDEX events_invoice ON webhookd.events (invoice_number, id) WHERE invoice_number IS NOT NULL;
CREATE INDEX events_reference ON webhookd.events (merchant_reference, id) WHERE merchant_reference IS NOT NULL;

-- The exact bytes, apart from the hot table. Partitioned by the time in the event's id, so that retention drops whole
-- partitions and a look-up by id alone reads one of them.
CREATE TABLE webhookd.event_bodies (
    event_id uuid  PRIMARY KEY,
    body     bytea NOT NULL
) PARTITION BY RANGE (event_id);
CREATE TABLE webhookd.event_bodies_default PARTITION OF webhookd.event_bodies DEFAULT;
COMMENT ON TABLE webhookd.event_bodies_default IS 'What a wrong clock put outside every partition; empty in health.';

-- Every change of an event's status: from, to, when, by whom, why.
CREATE TABLE webhookd.event_audit (
    event_id    uuid        NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_status text,
    to_status   text        NOT NULL,
    actor       text        NOT NULL,
    attempt     integer,
    reason      text
) PARTITION BY RANGE (event_id);
CREATE INDEX event_audit_event ON webhookd.event_audit (event_id, at);
CREATE TABLE webhookd.event_audit_default PARTITION OF webhookd.event_audit DEFAULT;

-- Further notification ids of one event: the same content through a second registered webhook.
CREATE TABLE webhookd.notification_aliases (
    account         text        NOT NULL,
    notification_id text        NOT NULL,
    event_id        uuid        NOT NULL,
    body_hash       bytea       NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, notification_id)
);
CREATE INDEX notification_aliases_event ON webhookd.notification_aliases (event_id);  -- aliases go with their event

-- Authentic bodies that cannot become events, with the reason; they can be released later.
CREATE TABLE webhookd.quarantine (
    id              uuid        PRIMARY KEY,
    account         text        NOT NULL,
    reason          text        NOT NULL,
    detail          text        NOT NULL,
    key_fingerprint text        NOT NULL,
    body            bytea       NOT NULL,
    body_hash       bytea       NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    times_received  integer     NOT NULL DEFAULT 1,
    handled_at      timestamptz,
    handled_by      text,
    outcome         text        CONSTRAINT quarantine_outcome_check CHECK (outcome IN ('released', 'discarded')),
    note            text,
    event_id        uuid,
    CONSTRAINT quarantine_body_key UNIQUE (account, body_hash)
);
CREATE INDEX quarantine_received ON webhookd.quarantine (received_at);
CREATE INDEX quarantine_waiting ON webhookd.quarantine (id) WHERE handled_at IS NULL;
COMMENT ON COLUMN webhookd.quarantine.event_id IS 'The event that a released body became, or that it repeats.';

-- The lowest UUID version 7 of an instant.
CREATE FUNCTION webhookd.first_id(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT (lpad(to_hex(floor(extract(epoch FROM instant) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$function$;
