-- Samples of refused webhooks.
-- depends: 0013_secrets

-- migrate: apply

-- A bounded number for each account and outcome. Nothing here is authentic: strangers chose it, and a text of theirs stands here
-- cut and escaped.
CREATE TABLE refused_webhooks (
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
CREATE INDEX refused_webhooks_newest ON refused_webhooks (refused_at, id);
CREATE INDEX refused_webhooks_group ON refused_webhooks (account, outcome);
COMMENT ON COLUMN refused_webhooks.account IS 'By the path; unknown for a path of no account.';
COMMENT ON COLUMN refused_webhooks.peer IS 'The address of the connection: behind a proxy, the proxy.';
COMMENT ON COLUMN refused_webhooks.forwarded_for IS 'What X-Forwarded-For says. Anyone can write that header.';
COMMENT ON COLUMN refused_webhooks.header_shape IS 'How the signature header is written, without its value.';
COMMENT ON COLUMN refused_webhooks.body_length IS 'Bytes, as read or as announced; NULL for a body of unknown length.';
COMMENT ON COLUMN refused_webhooks.first_bytes IS 'At most 200 bytes of the body, escaped, with card numbers, addresses and the values of forms masked.';

-- migrate: rollback

DROP TABLE refused_webhooks;
