-- The settlement: the facts of transactions, the batches, the state of the sweep, and the details that handlers wait for.

-- The provider's statements about each transaction, merged from all looks (webhookd/authorizenet/settlement.py has the rule). No column holds a
-- name, an address, a card or a bank account. Whoever writes a row raises its version, and writes only if nobody else has.
CREATE TABLE webhookd.provider_transactions (
    account            text        NOT NULL,
    transaction_id     text        NOT NULL,
    version            integer     NOT NULL DEFAULT 1,
    status             text        NOT NULL,
    state              text        NOT NULL,
    seen_at            timestamptz NOT NULL,
    next_look_at       timestamptz,
    amount             numeric,
    batch_id           text,
    settled_at         timestamptz,
    submitted_at       timestamptz,
    type               text,
    ref_transaction_id text,
    account_type       text,
    invoice_number     text,
    subscription_id    text,
    payment_number     integer,
    echeck             boolean     NOT NULL DEFAULT false,
    detailed           boolean     NOT NULL DEFAULT false,
    lists_returns      boolean     NOT NULL DEFAULT false,
    returned_items     jsonb,
    failed_batches     text[],
    listed_in          text[],
    PRIMARY KEY (account, transaction_id)
);
CREATE INDEX provider_transactions_next_look ON webhookd.provider_transactions (account, next_look_at) WHERE next_look_at IS NOT NULL;
CREATE INDEX provider_transactions_batch ON webhookd.provider_transactions (account, batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX provider_transactions_invoice ON webhookd.provider_transactions (account, invoice_number) WHERE invoice_number IS NOT NULL;
CREATE INDEX provider_transactions_reference ON webhookd.provider_transactions (account, ref_transaction_id)
WHERE ref_transaction_id IS NOT NULL;
CREATE INDEX provider_transactions_subscription ON webhookd.provider_transactions (account, subscription_id)
WHERE subscription_id IS NOT NULL;
COMMENT ON COLUMN webhookd.provider_transactions.status IS 'The provider''s text.';
COMMENT ON COLUMN webhookd.provider_transactions.state IS 'The state that webhookd makes of the status and of the returned items.';
COMMENT ON COLUMN webhookd.provider_transactions.seen_at IS 'The time of the look that decided on status, amount, batch_id and settled_at.';
COMMENT ON COLUMN webhookd.provider_transactions.next_look_at IS 'When webhookd asks for this transaction again. NULL: no look is planned.';
COMMENT ON COLUMN webhookd.provider_transactions.amount IS 'What settles; positive for a refund, too.';
COMMENT ON COLUMN webhookd.provider_transactions.ref_transaction_id IS 'The transaction that a refund, a capture or a void is for.';
COMMENT ON COLUMN webhookd.provider_transactions.account_type IS 'The type of card, or eCheck.';
COMMENT ON COLUMN webhookd.provider_transactions.detailed IS 'Whether the details were read, which alone have type and ref_transaction_id.';
COMMENT ON COLUMN webhookd.provider_transactions.lists_returns IS 'Whether a list reports returned items, which only details name.';
COMMENT ON COLUMN webhookd.provider_transactions.returned_items IS 'The returns of an eCheck: [[id, time, code]].';
COMMENT ON COLUMN webhookd.provider_transactions.listed_in IS
    'The batches whose lists had the transaction, without those that failed. A transaction settles in one only.';

-- The batches, and what the comparison of their lists with their statistics found.
CREATE TABLE webhookd.provider_batches (
    account          text        NOT NULL,
    batch_id         text        NOT NULL,
    settlement_state text        NOT NULL,
    settled_at       timestamptz,
    payment_method   text,
    statistics       jsonb       NOT NULL DEFAULT '[]',
    totals           jsonb       NOT NULL DEFAULT '{}',
    reasons          text[]      NOT NULL DEFAULT '{}',
    transactions     integer     NOT NULL DEFAULT 0,
    first_at         timestamptz NOT NULL DEFAULT now(),
    looked_at        timestamptz,
    changed          boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (account, batch_id)
);
CREATE INDEX provider_batches_settled ON webhookd.provider_batches (account, settled_at);
COMMENT ON COLUMN webhookd.provider_batches.statistics IS 'The provider''s sums, a JSON object for each type of card.';
COMMENT ON COLUMN webhookd.provider_batches.totals IS 'The sums of the listed transactions: {account type: {line: number}}.';
COMMENT ON COLUMN webhookd.provider_batches.reasons IS 'Why the batch is still open, in plain words. None: it is closed.';
COMMENT ON COLUMN webhookd.provider_batches.looked_at IS 'When the list of the batch was last read. NULL: not yet.';
COMMENT ON COLUMN webhookd.provider_batches.changed IS 'Whether the provider lists another state or other sums than at the last look.';

-- How far the sweep of each account has come.
CREATE TABLE webhookd.provider_sweeps (
    account           text        PRIMARY KEY,
    swept_from        timestamptz NOT NULL,
    batches_listed_at timestamptz,
    unsettled_at      timestamptz,
    subscriptions_at  timestamptz,
    begun_at          timestamptz NOT NULL DEFAULT now(),
    swept_at          timestamptz,
    time_zone         text
);
COMMENT ON COLUMN webhookd.provider_sweeps.swept_from IS 'Batches that settled earlier are not looked at, unless an operator orders it.';
COMMENT ON COLUMN webhookd.provider_sweeps.batches_listed_at IS 'When the batches were last listed, and all of them were recorded.';
COMMENT ON COLUMN webhookd.provider_sweeps.unsettled_at IS 'When the unsettled and the held transactions were last listed to the end.';
COMMENT ON COLUMN webhookd.provider_sweeps.subscriptions_at IS 'When the subscriptions were last listed to the end.';
COMMENT ON COLUMN webhookd.provider_sweeps.begun_at IS 'When the first sweep began.';
COMMENT ON COLUMN webhookd.provider_sweeps.swept_at IS 'When a sweep last ended, with nothing left to read. NULL: none has.';
COMMENT ON COLUMN webhookd.provider_sweeps.time_zone IS 'The account''s time zone as the provider names it.';

-- The events whose handlers wait for the details of a transaction. When the details come, `came_at` is set, and the event's work is due at once.
-- The row goes with the event's work.
CREATE TABLE webhookd.details_wanted (
    event_id       uuid        PRIMARY KEY,
    account        text        NOT NULL,
    transaction_id text        NOT NULL,
    attempts       integer     NOT NULL,
    since          timestamptz NOT NULL DEFAULT now(),
    tries          integer     NOT NULL DEFAULT 0,
    next_try_at    timestamptz NOT NULL DEFAULT now(),
    came_at        timestamptz,
    problem        text
);
CREATE INDEX details_wanted_next_try ON webhookd.details_wanted (account, next_try_at) WHERE came_at IS NULL;
CREATE INDEX details_wanted_transaction ON webhookd.details_wanted (account, transaction_id) WHERE came_at IS NULL;
COMMENT ON COLUMN webhookd.details_wanted.attempts IS 'The attempts of the work when it began to wait. Work that has failed since then is not woken.';
COMMENT ON COLUMN webhookd.details_wanted.tries IS 'How often the provider was asked in vain.';
COMMENT ON COLUMN webhookd.details_wanted.came_at IS
    'When the details came. From then on, the handlers get what webhookd knows of the transaction, even if a part is missing. NULL: they wait.';
COMMENT ON COLUMN webhookd.details_wanted.problem IS 'Why the details did not come at the last try.';

-- The subscriptions as the provider lists them, and their payments.
CREATE TABLE webhookd.provider_subscriptions (
    account           text        NOT NULL,
    subscription_id   text        NOT NULL,
    status            text        NOT NULL,
    created_at        timestamptz,
    amount            numeric,
    past_occurrences  integer,
    total_occurrences integer,
    invoice_number    text,
    card_expiring     boolean     NOT NULL DEFAULT false,
    interval_length   integer,
    interval_unit     text,
    starts_on         date,
    attempts          jsonb       NOT NULL DEFAULT '[]',
    seen_at           timestamptz NOT NULL,
    detailed_at       timestamptz,
    PRIMARY KEY (account, subscription_id)
);
COMMENT ON COLUMN webhookd.provider_subscriptions.total_occurrences IS '9999: the subscription has no end.';
COMMENT ON COLUMN webhookd.provider_subscriptions.card_expiring IS 'Whether the provider lists the card as expiring this month.';
COMMENT ON COLUMN webhookd.provider_subscriptions.attempts IS
    'The latest attempts at payments: [{transaction_id, submitted_at, payment_number, attempt_number, response}].';
COMMENT ON COLUMN webhookd.provider_subscriptions.detailed_at IS 'When the schedule and the attempts were last read. NULL: not yet.';
