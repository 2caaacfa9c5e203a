-- The provider's side of each account: who asks the provider, what its history says day by day, its webhook, and its pings.

-- One row for each account whose credentials are set. One replica asks the provider for an account at a time: the holder.
CREATE TABLE webhookd.provider_accounts (
    account           text        PRIMARY KEY,
    holder            uuid,
    held_until        timestamptz NOT NULL DEFAULT '-infinity',
    provider          text,
    gateway_id        text,
    gateway_since     timestamptz NOT NULL DEFAULT now(),
    merchant_name     text,
    test_mode         boolean,
    checked_at        timestamptz,
    credentials       text        NOT NULL DEFAULT 'unknown'
        CONSTRAINT provider_accounts_credentials_known CHECK (credentials IN ('unknown', 'good', 'refused')),
    credentials_since timestamptz NOT NULL DEFAULT now(),
    features_off      text[]      NOT NULL DEFAULT '{}',
    compared_from     timestamptz NOT NULL DEFAULT now(),
    compared_to       date,
    compared_at       timestamptz,
    our_webhooks      text[]      NOT NULL DEFAULT '{}',
    webhook_id        text,
    webhook_state     text        NOT NULL DEFAULT 'unknown',
    webhook_since     timestamptz NOT NULL DEFAULT now(),
    webhook_detail    text,
    webhook_seen_at   timestamptz,
    webhook_event_types text[]
);
COMMENT ON COLUMN webhookd.provider_accounts.holder IS 'The replica that asks the provider for this account until held_until.';
COMMENT ON COLUMN webhookd.provider_accounts.provider IS 'The host of the API that the row is about.';
COMMENT ON COLUMN webhookd.provider_accounts.checked_at IS 'When the provider last accepted the credentials.';
COMMENT ON COLUMN webhookd.provider_accounts.compared_from IS
    'Older notifications are none of webhookd''s business: another program may have processed them. An operator may set an earlier time.';
COMMENT ON COLUMN webhookd.provider_accounts.compared_to IS
    'The newest day of an unbroken sequence of days whose history is compared with the ledger and needs no further look.';
COMMENT ON COLUMN webhookd.provider_accounts.compared_at IS 'When a comparison of the history with the ledger last ended.';
COMMENT ON COLUMN webhookd.provider_accounts.our_webhooks IS
    'The ids of all webhooks that were found to be webhookd''s own, also former ones. Only their notifications are taken.';
COMMENT ON COLUMN webhookd.provider_accounts.webhook_state IS
    'What the guardian last found: ok, inactive, missing, url, event_types, doubled, or unknown.';
COMMENT ON COLUMN webhookd.provider_accounts.webhook_since IS 'Since when webhook_state is what it is.';
COMMENT ON COLUMN webhookd.provider_accounts.webhook_seen_at IS 'When the guardian last got the list of webhooks.';
COMMENT ON COLUMN webhookd.provider_accounts.webhook_event_types IS
    'The event types that the webhook is to have: as it was registered, or as it was first seen.';

-- The result of the last comparison of each day. The days are of UTC.
CREATE TABLE webhookd.provider_days (
    account      text        NOT NULL,
    day          date        NOT NULL,
    completeness text        NOT NULL,
    listed       integer     NOT NULL DEFAULT 0,
    ours         integer     NOT NULL DEFAULT 0,
    recovered    integer     NOT NULL DEFAULT 0,
    missing      integer     NOT NULL DEFAULT 0,
    waiting      integer     NOT NULL DEFAULT 0,
    unreadable   integer     NOT NULL DEFAULT 0,
    unlisted     integer     NOT NULL DEFAULT 0,
    most         integer     NOT NULL DEFAULT 0,
    looks        integer     NOT NULL DEFAULT 0,
    looked_at    timestamptz,
    since        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, day)
);
COMMENT ON COLUMN webhookd.provider_days.listed IS 'How many notifications the history lists for this webhook.';
COMMENT ON COLUMN webhookd.provider_days.ours IS 'How many of these are events in the ledger.';
COMMENT ON COLUMN webhookd.provider_days.recovered IS 'How many of these came from the history, not as webhooks.';
COMMENT ON COLUMN webhookd.provider_days.unlisted IS 'How many events of the ledger the history does not list.';
COMMENT ON COLUMN webhookd.provider_days.most IS 'The highest number of rows that a look found, those for other webhooks included.';
COMMENT ON COLUMN webhookd.provider_days.looks IS 'How many thorough looks in a row, after the end of the day, found that number.';
COMMENT ON COLUMN webhookd.provider_days.looked_at IS 'When the last of these looks was made.';
COMMENT ON COLUMN webhookd.provider_days.since IS 'Since when completeness is what it is.';

-- Notifications of the history that are not in the ledger.
CREATE TABLE webhookd.provider_notifications (
    account         text        NOT NULL,
    notification_id text        NOT NULL,
    status          text        NOT NULL
        CONSTRAINT provider_notifications_status_known CHECK (status IN ('foreign', 'unreadable', 'seen')),
    reason          text        NOT NULL,
    event_type      text,
    event_date      timestamptz,
    tries           integer     NOT NULL DEFAULT 1,
    first_at        timestamptz NOT NULL DEFAULT now(),
    last_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, notification_id)
);
COMMENT ON COLUMN webhookd.provider_notifications.status IS
    'foreign: the notification is for another webhook of the account. unreadable: the provider''s answer cannot become an event.
seen: the history listed the notification, and the ledger lacked it; the row goes when the ledger has the event.';

-- Credentials that the provider refused: nobody tries them again before `until`, whichever replica, and after a restart, too.
CREATE TABLE webhookd.provider_refusals (
    fingerprint text        PRIMARY KEY,
    account     text        NOT NULL,
    code        text        NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    until       timestamptz NOT NULL
);
COMMENT ON COLUMN webhookd.provider_refusals.fingerprint IS
    'A hash of the API''s host, the API Login ID and the Transaction Keys. So other credentials are tried at once.';

-- The last calls of each account, for people. No row holds a body, an id of a customer, or a credential.
CREATE TABLE webhookd.provider_calls (
    id      uuid        PRIMARY KEY,
    account text        NOT NULL,
    at      timestamptz NOT NULL DEFAULT now(),
    name    text        NOT NULL,
    seconds float8      NOT NULL,
    error   text
);
CREATE INDEX provider_calls_by_account ON webhookd.provider_calls (account, at);

-- The pings that webhookd ordered. While one is open, the receivers hold what may be its sample, and process nothing of it. When the ping
-- is over, it is decided: one notification at most is the sample, and all others become events. A receiver reads the open pings anew if what it knows is older than three seconds; who orders a ping waits for longer than that.
CREATE TABLE webhookd.provider_pings (
    id         uuid        PRIMARY KEY,
    account    text        NOT NULL,
    webhook_id text        NOT NULL,
    others     text[]      NOT NULL DEFAULT '{}',
    opened_at  timestamptz NOT NULL DEFAULT now(),
    closes_at  timestamptz NOT NULL,
    sent       boolean,
    decided_at timestamptz,
    actor      text        NOT NULL
);
CREATE INDEX provider_pings_closes_at ON webhookd.provider_pings (closes_at);
COMMENT ON COLUMN webhookd.provider_pings.others IS 'The ids of the other webhooks of the account: what they send is no test.';
COMMENT ON COLUMN webhookd.provider_pings.sent IS
    'false: the provider sent no sample, so that all held notifications are real ones. NULL: it sent one, or nobody knows.';
COMMENT ON COLUMN webhookd.provider_pings.decided_at IS 'When the ping''s sample was chosen among the held notifications.';

-- The samples that pings brought, and the notifications that are held (with their bodies) until their ping is decided.
CREATE TABLE webhookd.provider_tests (
    id              uuid        PRIMARY KEY,
    account         text        NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    notification_id text        NOT NULL,
    event_type      text        NOT NULL,
    webhook_id      text,
    key_fingerprint text        NOT NULL,
    ping            uuid,
    event_date      timestamptz,
    body            bytea,
    decided_at      timestamptz
);
CREATE INDEX provider_tests_held ON webhookd.provider_tests (account) WHERE body IS NOT NULL;
CREATE INDEX provider_tests_by_account ON webhookd.provider_tests (account, received_at);
COMMENT ON COLUMN webhookd.provider_tests.body IS 'The body of a held notification, which may be a real one; NULL: the row is a sample.';
COMMENT ON COLUMN webhookd.provider_tests.decided_at IS 'When the row became a sample.';

-- The changes that webhookd made at the provider. The limits of healing are counted here.
CREATE TABLE webhookd.provider_changes (
    id         uuid        PRIMARY KEY,
    account    text        NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text        NOT NULL,
    change     text        NOT NULL,
    webhook_id text,
    detail     text
);
CREATE INDEX provider_changes_by_account ON webhookd.provider_changes (account, at);
