-- The ledger of events, the unfinished work, the bodies, the audit trail, the aliases and the quarantine.

-- The random id of this database. The query identify computes the prefix of every Redis key from this id, from the start time of the
-- server process, and from the oids of the database and of this table. So two installations that share one Redis never take each other's
-- events for their own.
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
COMMENT ON TABLE webhookd.secrets IS
    'Random secrets that all replicas share. Anyone who can read them can revive dead events by a message in the queue.';

-- gen_random_uuid() reads the operating system's source of randomness. The two UUIDs have 244 random bits together.
INSERT INTO webhookd.secrets (name, value)
VALUES ('dead-letter copies', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- Tasks that one replica at a time does for all replicas. A replica takes a duty for a limited time. If the holder does not take the duty
-- again in time, another replica can take it.
CREATE TABLE webhookd.duties (
    name       text        PRIMARY KEY,
    holder     uuid        NOT NULL,
    held_until timestamptz NOT NULL
);

-- The texts that thousands of events share: one row for each combination of the four texts. The id is a hash of the four texts
-- (webhookd/store/keys.py). So every process computes the id without a look-up, also after a failover or a restore. A row is never
-- changed or removed. The ledger has no foreign key to this table. The trigger of a foreign key would read this table once for each
-- event, and insert_events already stores no event whose kind is missing.
-- Anyone who holds a signature key can find two event types whose hashes are equal, with 2^32 attempts. If this happens, the constraint
-- kinds_one_kind_an_id makes insert_kinds refuse the second event type. So no event gets the texts of another event, and events of the
-- second type go to quarantine.
CREATE TABLE webhookd.kinds (
    id              bigint PRIMARY KEY,
    account         text   NOT NULL CONSTRAINT kinds_one_kind_an_id CHECK (account <> ''),
    event_type      text   NOT NULL,
    entity_name     text,
    key_fingerprint text   NOT NULL
);
COMMENT ON TABLE webhookd.kinds IS
    'The texts that thousands of events share: account, event type, name of the entity, and fingerprint of the signature key. The '
    'ledger refers to them by its column kind.';

-- The ledger: one row for each authentic notification. A row is inserted once and never updated. The table is not partitioned, because a
-- unique key on a partitioned table would be unique within each partition only. The ids are UUIDs of version 7. The receiver makes the
-- ids. They are in the order of time, and unique over all replicas. The columns of fixed width come first, because this order makes the
-- rows smaller.
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
COMMENT ON TABLE webhookd.ledger IS
    'One row for each authentic notification, never updated. The table work shows which events still have work to do.';
COMMENT ON COLUMN webhookd.ledger.notification_key IS
    'First half: hash of the notification id. Second half: hash of account and notification id.';
COMMENT ON COLUMN webhookd.ledger.content_key IS
    'The second of the event''s date, and a hash of account, type, date and payload. Finds one event that came through two registered '
    'webhooks. NULL if date or payload is missing, or if the body is nested too deeply or is too long to be compared exactly.';
COMMENT ON COLUMN webhookd.ledger.body_hash IS
    'Hash of the exact bytes. Distinguishes a repeated notification from another body under the same notification id.';
COMMENT ON COLUMN webhookd.ledger.kind IS
    'The id in the table kinds, which has account, event type, name of the entity and key. The view events shows these texts.';
COMMENT ON COLUMN webhookd.ledger.notification_id IS 'The provider''s notification id, in lower case.';
COMMENT ON COLUMN webhookd.ledger.traceparent IS
    'The span of the webhook''s receipt, in the format of W3C Trace Context. NULL if the receiver did not trace.';

-- People search for an event by the entity's id, the invoice number or the merchant's reference.
CREATE INDEX ledger_entity ON webhookd.ledger (entity_id, id) WHERE entity_id IS NOT NULL;
CREATE INDEX ledger_invoice ON webhookd.ledger (invoice_number, id) WHERE invoice_number IS NOT NULL;
CREATE INDEX ledger_reference ON webhookd.ledger (merchant_reference, id) WHERE merchant_reference IS NOT NULL;

-- Work: one row for each event and consumer, until the work ends well. The transaction of the event's effects deletes the row. So the
-- rows of this table are the truth about the work that is still to be done. The table is small, so its indexes are cheap to change.
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
COMMENT ON TABLE webhookd.work IS 'The work that is still to be done: one row for each event and consumer whose work has not ended well.';
COMMENT ON COLUMN webhookd.work.due IS
    'Received or retrying: when the sweeper sends the work to SQS. Queued: from when on the message may count as lost. Dead or '
    'discarded: when the work died. Every change of unfinished work changes due, so due is the version of the row. A sweeper that takes '
    'work moves due ahead, as a lease.';
COMMENT ON COLUMN webhookd.work.sends IS 'How often the work was taken for sending since the last attempt that ended.';
COMMENT ON COLUMN webhookd.work.fresh IS
    'False after the work has failed, was redriven, was put back or was sent again. Such work is sent after fresh work.';
COMMENT ON COLUMN webhookd.work.since IS 'The time from which the work waits: the receipt, or the last redrive.';
COMMENT ON COLUMN webhookd.work.last_error IS
    'The error of the last failed attempt, up to 2,000 characters. The text may quote data that a handler saw.';
COMMENT ON COLUMN webhookd.work.dead_reason IS
    'Why the work is dead, as a text that may leave the database: the text has no customer data.';
COMMENT ON COLUMN webhookd.work.copy_sent_at IS
    'When a copy of the dead work reached the dead-letter queue. NULL while webhookd still has to send the copy.';
COMMENT ON COLUMN webhookd.work.discarded_at IS
    'When an operator discarded this dead work. Discarded work has no copy in the dead-letter queue, and retention may remove the work.';
COMMENT ON COLUMN webhookd.work.redriven_at IS 'When an operator last redrove this work. From then on, the attempts are counted anew.';

-- Work that is to be sent waits in three lanes, each in the order of `due`. The first lane is fresh work. The second lane is work that
-- was redriven or put back, and first retries. The third lane is later retries. Each lane has an index of its own, so that a search in
-- one lane reads no row of another lane. The fourth index has the work that was sent and has not ended. The queue may have lost some of
-- this work.
CREATE INDEX work_fresh ON webhookd.work (due) WHERE status = 'received' AND fresh;
CREATE INDEX work_rest ON webhookd.work (status, due) WHERE status IN ('received', 'retrying') AND NOT fresh AND attempts <= 1;
CREATE INDEX work_later ON webhookd.work (status, due) WHERE status IN ('received', 'retrying') AND NOT fresh AND attempts > 1;
CREATE INDEX work_sent ON webhookd.work (fresh, due) WHERE status = 'queued';
-- This index serves the age of the oldest unfinished work, and lists of unfinished work. IS TRUE keeps PostgreSQL from using this index
-- if a query counts one status. Without IS TRUE, PostgreSQL may rate this index as good as the others, and would then read all the work
-- that waits.
CREATE INDEX work_waiting ON webhookd.work (since, event_id) WHERE (status IN ('received', 'queued', 'retrying')) IS TRUE;
-- Dead work is read in the order of the deaths, one page at a time. The id is the second key. Without it, PostgreSQL would sort all the
-- work that died at one instant for each page. Discarded work has its own index, so a search for work that waits for an operator does not
-- read discarded work.
CREATE INDEX work_dead ON webhookd.work (due, event_id) WHERE status = 'dead';
CREATE INDEX work_discarded ON webhookd.work (due, event_id) WHERE status = 'discarded';
CREATE INDEX work_owed ON webhookd.work (due) WHERE status = 'dead' AND copy_sent_at IS NULL;

-- These two statements leave some empty pages in the table, which no vacuum gives back. PostgreSQL may plan a prepared statement while
-- the table has no pages. Such a statement would read the whole table, without an index, until the next ANALYZE. In a burst after a quiet
-- night, each statement would read the work of a whole minute.
INSERT INTO webhookd.work (event_id, consumer, due, status)
SELECT gen_random_uuid(), 'handlers', now(), 'discarded' FROM generate_series(1, 20000);
DELETE FROM webhookd.work;

-- Attempts that have begun and have not ended, for work that may kill the process that tries it. The attempts count as long as the work
-- is unchanged: a failed attempt or a redrive makes the count void. A row is removed together with its event.
CREATE TABLE webhookd.suspects (
    event_id    uuid        NOT NULL,
    consumer    text        NOT NULL,
    attempts    integer     NOT NULL,
    redriven_at timestamptz,
    begun       integer     NOT NULL,
    PRIMARY KEY (event_id, consumer)
);

-- The processes that work, each under a random id. A row shows how much work the process does at a time, and when the process last found
-- the queue empty. Each message that was sent before that time was received at least once, or is lost.
CREATE TABLE webhookd.processes (
    id         uuid        PRIMARY KEY,
    turns      integer     NOT NULL,
    seen_at    timestamptz NOT NULL,
    drained_at timestamptz
);

-- The exact bytes of each event, apart from the ledger. The table is partitioned by the time in the event's id. So retention drops whole
-- partitions, and a look-up by id alone reads one partition.
CREATE TABLE webhookd.bodies (
    event_id uuid  PRIMARY KEY,
    body     bytea NOT NULL
) PARTITION BY RANGE (event_id);
CREATE TABLE webhookd.bodies_default PARTITION OF webhookd.bodies DEFAULT;
COMMENT ON TABLE webhookd.bodies_default IS 'Bodies that a wrong clock put outside every partition. Empty in normal operation.';

-- The changes of an event after its receipt: status before, status after, time, actor and reason. The receipt has a row only if somebody
-- other than the provider caused the event.
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
COMMENT ON COLUMN webhookd.audit.consumer IS
    'The consumer whose work changed. NULL means the consumer handlers. In the row of a receipt (from_status is NULL), NULL means the '
    'event as a whole. NULL takes no space; the name would take 8 bytes in each row.';

-- Further notification ids of one event, which came with the same content through a second registered webhook.
CREATE TABLE webhookd.notification_aliases (
    notification_key uuid        PRIMARY KEY,
    event_id         uuid        NOT NULL,
    body_hash        uuid        NOT NULL,
    received_at      timestamptz NOT NULL DEFAULT now(),
    account          text        NOT NULL,
    notification_id  text        NOT NULL
);
CREATE INDEX notification_aliases_event ON webhookd.notification_aliases (event_id);  -- retention removes an event with its aliases

CREATE FUNCTION webhookd.status_of(work_status text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
    SELECT CASE WHEN work_status IS NULL THEN 'processed' WHEN work_status = 'discarded' THEN 'dead' ELSE work_status END
$function$;
COMMENT ON FUNCTION webhookd.status_of(text) IS
    'The status of an event, computed from the status of its work. The argument is NULL if no work is left.';

-- The events as a whole, for people and scripts. An event is dead if any of its work is dead. Else it is retrying, queued or received, if
-- any of its work is. Else it is dead if any of its work was discarded. Else it is processed. For a processed event, the audit trail has
-- the time of the end and the number of attempts. The number of its sends is no longer known.
-- The view is not a UNION ALL of events with work and events without work. With a UNION ALL, a filter by status would begin with the
-- work. But with a million events, the newest 50 took 190 ms instead of 1 ms, and a join with 200 ids took 3 s instead of 2 ms.
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
-- The left join hides no event, and PostgreSQL skips it if a query reads no text of the kind.
LEFT JOIN webhookd.kinds k ON k.id = l.kind
LEFT JOIN LATERAL (
    SELECT *
    FROM webhookd.work
    WHERE event_id = l.id
    ORDER BY array_position(ARRAY['dead', 'retrying', 'queued', 'received', 'discarded'], status)
    LIMIT 1
) AS w ON true;
COMMENT ON VIEW webhookd.events IS
    'One row for each authentic notification, with its status: received, queued, retrying, processed or dead. A filter by status reads '
    'the whole ledger. To find events that are not processed, begin with the table work: SELECT e.* FROM webhookd.work w JOIN '
    'webhookd.events e ON e.id = w.event_id WHERE w.status = ''dead''.';

-- Authentic bodies that cannot become events, each with the reason. An operator can release a body later.
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
COMMENT ON COLUMN webhookd.quarantine.event_id IS 'The event that a released body became, or the event that the body repeats.';

-- Returns the lowest UUID of version 7 at an instant.
CREATE FUNCTION webhookd.first_id(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $function$
    SELECT (lpad(to_hex(floor(extract(epoch FROM instant) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$function$;
