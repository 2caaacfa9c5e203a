-- The ledger of events, the work that is left, bodies, the audit trail, aliases and quarantine.

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

-- The texts that thousands of events share, once for each combination of them. The id is a hash of the four (webhookd/store/keys.py), so that
-- every process knows it without a look-up, also after a failover or a restore. A row is never changed or removed. The ledger has no foreign key
-- to this table: its trigger would read here once for each event, and insert_events stores no event whose kind is missing.
-- Whoever holds a signature key can find two event types whose hashes are equal, with 2^32 attempts. insert_kinds refuses the second one by the
-- constraint kinds_one_kind_an_id. So no event gets the texts of another; the second one goes to quarantine.
CREATE TABLE webhookd.kinds (
    id              bigint PRIMARY KEY,
    account         text   NOT NULL CONSTRAINT kinds_one_kind_an_id CHECK (account <> ''),
    event_type      text   NOT NULL,
    entity_name     text,
    key_fingerprint text   NOT NULL
);
COMMENT ON TABLE webhookd.kinds IS 'What thousands of events share: account, event type, name of the entity, and the key that signed. By the ledger''s column kind.';

-- The ledger: one row for each authentic notification, inserted once and never updated. Not partitioned, since a unique key over a
-- partitioned table would be unique per partition only. Ids are UUID version 7: in order of time, made by the receiver, and unique
-- over all replicas. The columns of fixed width come first, since that makes the rows smaller.
CREATE TABLE webhookd.ledger (
    id                  uuid        PRIMARY KEY,
    notification_key    uuid        NOT NULL CONSTRAINT ledger_notification_key UNIQUE,
    content_key         uuid        CONSTRAINT ledger_content_key UNIQUE,
    body_hash           uuid        NOT NULL,
    received_at         timestamptz NOT NULL DEFAULT now(),
    event_date          timestamptz,
    kind                bigint      NOT NULL,
    notification_id     text        NOT NULL,
    entity_id           text,
    invoice_number      text,
    merchant_reference  text,
    traceparent         text
);
COMMENT ON TABLE webhookd.ledger IS 'One row for each authentic notification, never updated. What is still to be done with it is in the table work.';
COMMENT ON COLUMN webhookd.ledger.notification_key IS 'Hash of the notification id (first half), and of account and notification id (second half).';
COMMENT ON COLUMN webhookd.ledger.content_key IS 'Second of the event''s date, and hash of account, type, date and payload: finds one event that came through two registered webhooks. NULL if date or payload is missing.';
COMMENT ON COLUMN webhookd.ledger.body_hash IS 'Hash of the exact bytes: tells a repeated notification from another body under the same id.';
COMMENT ON COLUMN webhookd.ledger.kind IS 'The id in the table kinds: account, event type, entity''s name and key. The view events has them.';
COMMENT ON COLUMN webhookd.ledger.notification_id IS 'The provider''s id, in lower case.';
COMMENT ON COLUMN webhookd.ledger.traceparent IS 'The span of the webhook''s receipt, as W3C Trace Context writes it; NULL if the receiver did not trace.';

-- Events are found by what a person knows of them: the entity's id, the invoice number, the merchant's reference.
CREATE INDEX ledger_entity ON webhookd.ledger (entity_id, id) WHERE entity_id IS NOT NULL;
CREATE INDEX ledger_invoice ON webhookd.ledger (invoice_number, id) WHERE invoice_number IS NOT NULL;
CREATE INDEX ledger_reference ON webhookd.ledger (merchant_reference, id) WHERE merchant_reference IS NOT NULL;

-- Work: one row for each event and consumer that has not ended well. The row is deleted in the transaction of the event's effects, so
-- that the row's existence is the truth about what is still to be done. The table is small, and its indexes are cheap to change.
CREATE TABLE webhookd.work (
    event_id     uuid        NOT NULL,
    due          timestamptz NOT NULL,
    since        timestamptz NOT NULL DEFAULT now(),
    redriven_at  timestamptz,
    copy_sent_at timestamptz,
    discarded_at timestamptz,
    attempts     integer     NOT NULL DEFAULT 0,
    sends        integer     NOT NULL DEFAULT 0,
    fresh        boolean     NOT NULL DEFAULT true,
    consumer     text        NOT NULL,
    status       text        NOT NULL DEFAULT 'received'
        CONSTRAINT work_status_known CHECK (status IN ('received', 'queued', 'retrying', 'dead', 'discarded')),
    last_error   text,
    dead_reason  text,
    PRIMARY KEY (event_id, consumer),
    CONSTRAINT work_retrying_is_not_fresh CHECK (status <> 'retrying' OR NOT fresh)
) WITH (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
COMMENT ON TABLE webhookd.work IS 'What is still to be done with the events: one row for each event and consumer that has not ended well.';
COMMENT ON COLUMN webhookd.work.due IS 'Received or retrying: when the sweeper sends it to SQS. Queued: when its message may count as lost. Dead: when it died. Each change of the row changes it, so that it is the row''s version. A sweeper that takes work moves it ahead, as a lease.';
COMMENT ON COLUMN webhookd.work.sends IS 'How often it was taken for sending since the last attempt that ended.';
COMMENT ON COLUMN webhookd.work.fresh IS 'False once it has failed, was redriven, was put back or was sent again: it is sent after what is fresh.';
COMMENT ON COLUMN webhookd.work.since IS 'Since when it waits: the receipt, or the last redrive.';
COMMENT ON COLUMN webhookd.work.last_error IS 'The last failed attempt, in full; may quote what a handler saw.';
COMMENT ON COLUMN webhookd.work.dead_reason IS 'Why the work is dead, as it may leave the database: no customer data.';
COMMENT ON COLUMN webhookd.work.copy_sent_at IS 'When a copy of dead work reached the dead-letter queue; NULL while it is owed.';
COMMENT ON COLUMN webhookd.work.discarded_at IS 'When an operator discarded this dead work: it has no copy in the dead-letter queue, and retention may remove it.';
COMMENT ON COLUMN webhookd.work.redriven_at IS 'When an operator last redrove this work: its attempts are counted from then on.';

-- Work that is to be sent waits in three lanes, each in the order of `due`: fresh work; work that was redriven or put back, and first retries;
-- later retries. Each lane has an index of its own, so that a search in one lane reads no row of another. The fourth index has the work that was
-- sent and has not ended. The queue may have lost some of it.
CREATE INDEX work_fresh ON webhookd.work (due) WHERE status = 'received' AND fresh;
CREATE INDEX work_rest ON webhookd.work (status, due) WHERE status IN ('received', 'retrying') AND NOT fresh AND attempts <= 1;
CREATE INDEX work_later ON webhookd.work (status, due) WHERE status IN ('received', 'retrying') AND NOT fresh AND attempts > 1;
CREATE INDEX work_sent ON webhookd.work (fresh, due) WHERE status = 'queued';
-- The age of the oldest unfinished work, and lists of it. IS TRUE keeps PostgreSQL from this index if one status is counted: it may take it
-- for as good as the others, and would then read all that waits.
CREATE INDEX work_waiting ON webhookd.work (since, event_id) WHERE (status IN ('received', 'queued', 'retrying')) IS TRUE;
-- Dead work is read in the order of the deaths, a page at a time. The id is the second key: without it, each page would sort all
-- that died at one instant. The discarded is apart, and is not read past to reach what waits for an operator.
CREATE INDEX work_dead ON webhookd.work (due, event_id) WHERE status = 'dead';
CREATE INDEX work_discarded ON webhookd.work (due, event_id) WHERE status = 'discarded';
CREATE INDEX work_owed ON webhookd.work (due) WHERE status = 'dead' AND copy_sent_at IS NULL;

-- Some pages that stay empty, and that no vacuum gives back. A prepared statement that PostgreSQL planned while the table had no pages would
-- read all of it, by no index, until the next ANALYZE. In a burst after a quiet night, each statement would read the work of a whole minute.
INSERT INTO webhookd.work (event_id, consumer, due, status)
SELECT gen_random_uuid(), 'handlers', now(), 'discarded' FROM generate_series(1, 20000);
DELETE FROM webhookd.work;

-- Attempts that have begun and have not ended, of work that may kill the process that tries it. They count as long as the work is as it was:
-- a failed attempt or a redrive makes them void. A row goes with its event.
CREATE TABLE webhookd.suspects (
    event_id    uuid        NOT NULL,
    consumer    text        NOT NULL,
    attempts    integer     NOT NULL,
    redriven_at timestamptz,
    begun       integer     NOT NULL,
    PRIMARY KEY (event_id, consumer)
);

-- The processes that work, each by a random id: how much each does at a time, and when it last found the queue empty. Of what was sent before that,
-- each message was received at least once, or is lost.
CREATE TABLE webhookd.processes (
    id         uuid        PRIMARY KEY,
    turns      integer     NOT NULL,
    seen_at    timestamptz NOT NULL,
    drained_at timestamptz
);

-- The exact bytes, apart from the ledger. Partitioned by the time in the event's id, so that retention drops whole
-- partitions and a look-up by id alone reads one of them.
CREATE TABLE webhookd.bodies (
    event_id uuid  PRIMARY KEY,
    body     bytea NOT NULL
) PARTITION BY RANGE (event_id);
CREATE TABLE webhookd.bodies_default PARTITION OF webhookd.bodies DEFAULT;
COMMENT ON TABLE webhookd.bodies_default IS 'What a wrong clock put outside every partition; empty in health.';

-- What happened to an event after its receipt: from which status to which, when, by whom, why. The receipt has a row only if
-- somebody else than the provider brought the event about.
CREATE TABLE webhookd.audit (
    event_id    uuid        NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_status text,
    to_status   text        NOT NULL,
    actor       text        NOT NULL,
    attempt     integer,
    reason      text,
    consumer    text
) PARTITION BY RANGE (event_id);
CREATE INDEX audit_event ON webhookd.audit (event_id);
CREATE TABLE webhookd.audit_default PARTITION OF webhookd.audit DEFAULT;
COMMENT ON COLUMN webhookd.audit.consumer IS 'Whose work changed. NULL stands for the consumer handlers, and in the row of a receipt (from_status is NULL) for the event as a whole: a NULL takes no room, the name 8 bytes of each row.';

-- Further notification ids of one event: the same content through a second registered webhook.
CREATE TABLE webhookd.notification_aliases (
    notification_key uuid        PRIMARY KEY,
    event_id         uuid        NOT NULL,
    body_hash        uuid        NOT NULL,
    received_at      timestamptz NOT NULL DEFAULT now(),
    account          text        NOT NULL,
    notification_id  text        NOT NULL
);
CREATE INDEX notification_aliases_event ON webhookd.notification_aliases (event_id);  -- aliases go with their event

CREATE FUNCTION webhookd.status_of(work_status text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
    SELECT CASE WHEN work_status IS NULL THEN 'processed' WHEN work_status = 'discarded' THEN 'dead' ELSE work_status END
$function$;
COMMENT ON FUNCTION webhookd.status_of(text) IS 'The status of an event by that of its work, which is NULL if no work is left.';

-- The events as a whole, for people and scripts. An event is dead if any of its work is dead, else retrying, queued or received if any
-- is, else processed. Of a processed event, the audit trail tells when it ended, and after how many attempts; how often it was sent is
-- not known any more. Not a UNION ALL of what has work and what has none: a filter by status would then begin with the work, but with a million
-- events, the newest 50 took 190 ms instead of 1 ms, and a join with 200 ids took 3 s instead of 2 ms.
CREATE VIEW webhookd.events AS
SELECT
    l.id,
    k.account,
    l.notification_id,
    k.event_type,
    webhookd.status_of(w.status) AS status,
    CASE WHEN w.status IS NOT NULL THEN w.attempts ELSE coalesce((
        SELECT a.attempt FROM webhookd.audit a WHERE a.event_id = l.id AND a.to_status = 'processed' ORDER BY a.at DESC LIMIT 1
    ), 0) END AS attempts,
    l.received_at,
    l.event_date,
    k.entity_name,
    l.entity_id,
    l.invoice_number,
    l.merchant_reference,
    k.key_fingerprint,
    w.sends,
    CASE WHEN w.status IN ('received', 'queued', 'retrying') THEN w.due END AS send_after,
    CASE WHEN w.status = 'retrying' THEN w.due END AS retry_at,
    CASE WHEN w.status IN ('dead', 'discarded') THEN w.due WHEN w.status IS NULL THEN (
        SELECT a.at FROM webhookd.audit a WHERE a.event_id = l.id AND a.to_status = 'processed' ORDER BY a.at DESC LIMIT 1
    ) END AS finished_at,
    w.last_error,
    w.dead_reason,
    w.copy_sent_at AS dead_letter_sent_at,
    w.discarded_at,
    w.redriven_at,
    l.traceparent
FROM webhookd.ledger l
-- A left join: PostgreSQL leaves it out if nobody asks for a text of the kind, and it hides no event.
LEFT JOIN webhookd.kinds k ON k.id = l.kind
LEFT JOIN LATERAL (
    SELECT *
    FROM webhookd.work
    WHERE event_id = l.id
    ORDER BY array_position(ARRAY['dead', 'retrying', 'queued', 'received', 'discarded'], status)
    LIMIT 1
) AS w ON true;
COMMENT ON VIEW webhookd.events IS 'One row for each authentic notification, with its status: received, queued, retrying, processed or dead. A filter by status reads the whole ledger. For what is not processed, begin with the work: SELECT e.* FROM webhookd.work w JOIN webhookd.events e ON e.id = w.event_id WHERE w.status = ''dead''.';

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
