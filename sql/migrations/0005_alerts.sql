-- For alerts without Prometheus: what the replicas report, the state of each condition, and the messages that wait.

-- Counts of all replicas by steps of time: short steps for the last hours, long steps for the rhythm of an account.
CREATE TABLE webhookd.alert_counts (
    measure     text        NOT NULL,
    account     text        NOT NULL,
    step        integer     NOT NULL,
    at          timestamptz NOT NULL,
    count       bigint      NOT NULL,
    first_at    timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    longest_gap float8      NOT NULL DEFAULT 0,
    PRIMARY KEY (measure, account, step, at)
);
COMMENT ON COLUMN webhookd.alert_counts.step IS 'The length of the step in seconds, from `at` on.';
COMMENT ON COLUMN webhookd.alert_counts.account IS 'Empty if the measure belongs to no account.';
COMMENT ON COLUMN webhookd.alert_counts.longest_gap IS 'The longest time in seconds between two reports of this step.';

-- The Signature Keys of the receivers' settings, by fingerprint.
CREATE TABLE webhookd.alert_keys (
    account       text        NOT NULL,
    key           text        NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    seen_at       timestamptz NOT NULL DEFAULT now(),
    last_used_at  timestamptz,
    PRIMARY KEY (account, key)
);

-- The replicas, each under a random id, with the state that it last reported.
CREATE TABLE webhookd.alert_replicas (
    id               uuid        PRIMARY KEY,
    seen_at          timestamptz NOT NULL,
    away             text[]      NOT NULL,
    channels         text[]      NOT NULL,
    certificate_ends timestamptz,
    evaluated_at     timestamptz,
    stuck            integer     NOT NULL DEFAULT 0
);
COMMENT ON COLUMN webhookd.alert_replicas.away IS 'The dependencies that do not answer this replica.';
COMMENT ON COLUMN webhookd.alert_replicas.channels IS 'The names of the channels in the settings of this replica.';
COMMENT ON COLUMN webhookd.alert_replicas.evaluated_at IS 'When this replica last evaluated the conditions, for all replicas.';
COMMENT ON COLUMN webhookd.alert_replicas.stuck IS 'The handlers of this replica that were cancelled and have not ended.';

-- The conditions that hold, and those that held until a moment ago.
CREATE TABLE webhookd.alert_states (
    condition   text        NOT NULL,
    subject     text        NOT NULL,
    since       timestamptz NOT NULL,
    held_at     timestamptz NOT NULL,
    fires_since timestamptz,
    detail      text        NOT NULL,
    channels    text[]      NOT NULL DEFAULT '{}',
    PRIMARY KEY (condition, subject)
);
COMMENT ON COLUMN webhookd.alert_states.subject IS 'What the condition is about, for example an account. Empty for the installation.';
COMMENT ON COLUMN webhookd.alert_states.held_at IS 'When an evaluation last found the condition true.';
COMMENT ON COLUMN webhookd.alert_states.fires_since IS 'NULL while the condition has not lasted long enough to fire.';
COMMENT ON COLUMN webhookd.alert_states.channels IS 'The channels that get the message about the beginning, and so the one about the end.';

-- Messages that wait for a channel. The transaction that changes a state adds them. A message that was sent is removed.
CREATE TABLE webhookd.alert_messages (
    id         uuid        PRIMARY KEY,
    channel    text        NOT NULL,
    condition  text        NOT NULL,
    subject    text        NOT NULL,
    change     text        NOT NULL CHECK (change IN ('fires', 'resolved')),
    page       boolean     NOT NULL,
    detail     text        NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    due        timestamptz NOT NULL DEFAULT now(),
    attempts   integer     NOT NULL DEFAULT 0
);
COMMENT ON COLUMN webhookd.alert_messages.due IS
    'From when on a replica may send the message. A replica that takes the message moves due ahead, as a lease.';
