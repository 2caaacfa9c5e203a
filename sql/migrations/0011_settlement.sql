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
    payment_number     bigint,
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
CREATE INDEX provider_transactions_unbatched ON webhookd.provider_transactions (account, submitted_at) WHERE batch_id IS NULL;
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
    asked             integer     NOT NULL DEFAULT 0,
    asked_at          timestamptz,
    subscriptions_at  timestamptz,
    subscription_lists integer NOT NULL DEFAULT 0,
    begun_at          timestamptz NOT NULL DEFAULT now(),
    swept_at          timestamptz,
    time_zone         text
);
COMMENT ON COLUMN webhookd.provider_sweeps.swept_from IS 'Batches that settled earlier are not looked at.';
COMMENT ON COLUMN webhookd.provider_sweeps.batches_listed_at IS 'When the batches were last listed, and all of them were recorded.';
COMMENT ON COLUMN webhookd.provider_sweeps.unsettled_at IS 'When the unsettled transactions were last listed to the end.';
COMMENT ON COLUMN webhookd.provider_sweeps.asked IS 'How many questions of the present day were answered; 0: all of them.';
COMMENT ON COLUMN webhookd.provider_sweeps.asked_at IS 'When a question of the day was last asked, with or without an answer.';
COMMENT ON COLUMN webhookd.provider_sweeps.subscriptions_at IS 'When the subscriptions were last listed to the end.';
COMMENT ON COLUMN webhookd.provider_sweeps.subscription_lists IS 'How many lists of subscriptions were read since then.';
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

-- The subscriptions as the provider lists them.
CREATE TABLE webhookd.provider_subscriptions (
    account           text        NOT NULL,
    subscription_id   text        NOT NULL,
    status            text        NOT NULL,
    status_since      timestamptz NOT NULL,
    created_at        timestamptz,
    amount            numeric,
    past_occurrences  bigint,
    total_occurrences bigint,
    invoice_number    text,
    card_expires      text,
    interval_length   bigint,
    interval_unit     text,
    starts_on         date,
    trial_occurrences bigint,
    trial_amount      numeric,
    judged_to         date,
    seen_at           timestamptz NOT NULL,
    detailed_at       timestamptz,
    next_look_at      timestamptz,
    PRIMARY KEY (account, subscription_id)
);
CREATE INDEX provider_subscriptions_next_look ON webhookd.provider_subscriptions (account, next_look_at) WHERE next_look_at IS NOT NULL;
COMMENT ON COLUMN webhookd.provider_subscriptions.status IS 'The provider''s text.';
COMMENT ON COLUMN webhookd.provider_subscriptions.status_since IS
    'The first look at which the subscription had this status. If it is as old as its first look, the time of its creation.';
COMMENT ON COLUMN webhookd.provider_subscriptions.total_occurrences IS '9999: the subscription has no end.';
COMMENT ON COLUMN webhookd.provider_subscriptions.card_expires IS
    'The last month, as YYYY-MM, of which the provider reports that the card expires in it.';
COMMENT ON COLUMN webhookd.provider_subscriptions.interval_unit IS 'days or months.';
COMMENT ON COLUMN webhookd.provider_subscriptions.judged_to IS
    'The last day on which a renewal was due and of which webhookd has decided whether the renewal came.';
COMMENT ON COLUMN webhookd.provider_subscriptions.detailed_at IS 'When the schedule and the attempts were last read. NULL: not yet.';
COMMENT ON COLUMN webhookd.provider_subscriptions.next_look_at IS
    'When webhookd reads the schedule and the attempts again. NULL: no look is planned.';

-- The attempts at payments of subscriptions. The provider reports the latest of them only.
CREATE TABLE webhookd.provider_attempts (
    account         text    NOT NULL,
    subscription_id text    NOT NULL,
    key             text    NOT NULL,
    payment_number  bigint,
    attempt_number  bigint,
    transaction_id  text,
    submitted_at    timestamptz,
    response        text,
    judged          boolean NOT NULL DEFAULT false,
    PRIMARY KEY (account, subscription_id, key)
);
COMMENT ON COLUMN webhookd.provider_attempts.key IS
    'The numbers of the payment and of the attempt; of an attempt without one of them, its time or its transaction.';
COMMENT ON COLUMN webhookd.provider_attempts.transaction_id IS 'The transaction that paid. NULL: the attempt failed.';
COMMENT ON COLUMN webhookd.provider_attempts.response IS 'The provider''s reason, if the attempt failed.';
COMMENT ON COLUMN webhookd.provider_attempts.judged IS 'Whether webhookd has decided if the failure of this attempt needs an event.';

-- The renewals that a schedule promised and that did not come in time.
CREATE TABLE webhookd.provider_missed_renewals (
    account         text        NOT NULL,
    subscription_id text        NOT NULL,
    expected_on     date        NOT NULL,
    amount          numeric,
    noted_at        timestamptz NOT NULL DEFAULT now(),
    came_at         timestamptz,
    PRIMARY KEY (account, subscription_id, expected_on)
);
CREATE INDEX provider_missed_renewals_waiting ON webhookd.provider_missed_renewals (account, expected_on) WHERE came_at IS NULL;
COMMENT ON COLUMN webhookd.provider_missed_renewals.expected_on IS 'The day in the account''s time zone.';
COMMENT ON COLUMN webhookd.provider_missed_renewals.came_at IS 'When an attempt at the payment came after all. NULL: none came.';

-- The views for finance. They read the tables above, and cost what they read: a query by transaction, invoice, subscription or time of
-- settlement uses an index.
CREATE INDEX provider_transactions_settled ON webhookd.provider_transactions (account, settled_at) WHERE settled_at IS NOT NULL;

CREATE VIEW webhookd.settlements AS
SELECT
    account,
    transaction_id,
    CASE
        WHEN type LIKE 'refund%' OR lower(status) LIKE 'refund%' THEN 'refund'
        WHEN state IN ('return', 'chargeback', 'chargeback reversal') THEN state
        ELSE 'charge'
    END AS kind,
    state,
    status,
    amount,
    CASE
        WHEN
            state IN ('settled', 'refund settled')
            OR (state = 'returned' AND lower(status) IN ('settledsuccessfully', 'refundsettledsuccessfully'))
            THEN amount
    END AS settled_amount,
    batch_id,
    settled_at,
    CASE WHEN returned_items IS NOT NULL THEN
        (SELECT min((item ->> 1)::timestamptz) FROM jsonb_array_elements(returned_items) AS items (item))
    END AS returned_at,
    CASE WHEN returned_items IS NOT NULL THEN
        (
            SELECT item ->> 2 FROM jsonb_array_elements(returned_items) AS items (item)
            ORDER BY (item ->> 1)::timestamptz NULLS LAST, (item ->> 0) COLLATE "C" LIMIT 1
        )
    END AS return_code,
    coalesce(jsonb_array_length(returned_items), 0) AS returns,
    ref_transaction_id,
    account_type,
    invoice_number,
    subscription_id,
    payment_number,
    submitted_at,
    seen_at
FROM webhookd.provider_transactions;
COMMENT ON VIEW webhookd.settlements IS
    'What the provider reports about each transaction after its webhooks: one row for each. A refund is a transaction of its own.';
COMMENT ON COLUMN webhookd.settlements.kind IS
    'charge or refund; return, chargeback or chargeback reversal for what a bank took back from an eCheck. A refund that failed before its '
    'details were read counts as a charge that failed.';
COMMENT ON COLUMN webhookd.settlements.state IS
    'held, authorized, pending, refund pending, settled, refund settled, settlement failed, returned, declined, expired, voided, error, '
    'unknown; or the kind, if it is return, chargeback or chargeback reversal.';
COMMENT ON COLUMN webhookd.settlements.status IS 'The provider''s text, from which webhookd makes the state.';
COMMENT ON COLUMN webhookd.settlements.amount IS 'The amount to settle, whatever became of it. Positive for a refund, too.';
COMMENT ON COLUMN webhookd.settlements.settled_amount IS
    'The amount that settled; NULL if nothing settled. A return takes the money back, and leaves this amount as it is.';
COMMENT ON COLUMN webhookd.settlements.returned_at IS 'When an eCheck was first returned.';
COMMENT ON COLUMN webhookd.settlements.return_code IS 'The code of the first return, such as R01 (NACHA).';
COMMENT ON COLUMN webhookd.settlements.returns IS 'How often the eCheck was returned.';
COMMENT ON COLUMN webhookd.settlements.ref_transaction_id IS 'The sale that a refund is for. Known once the details were read.';
COMMENT ON COLUMN webhookd.settlements.seen_at IS 'When the provider reported this state.';

-- A lateral join reads the refunds of the rows that a query wants, by their index. A join with a grouped subquery would group all refunds
-- for one sale.
CREATE VIEW webhookd.sales AS
SELECT
    s.account,
    s.transaction_id,
    s.state,
    s.amount,
    s.settled_amount,
    s.batch_id,
    s.settled_at,
    r.refunds,
    r.refunded_amount,
    r.pending_refunds,
    r.pending_refund_amount,
    r.failed_refunds,
    CASE WHEN s.state = 'returned' THEN s.settled_amount ELSE 0 END AS returned_amount,
    s.returned_at,
    s.return_code,
    s.settled_amount - r.refunded_amount - CASE WHEN s.state = 'returned' THEN s.settled_amount ELSE 0 END AS left_amount,
    s.account_type,
    s.invoice_number,
    s.subscription_id,
    s.payment_number,
    s.submitted_at
FROM webhookd.settlements AS s
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE f.state = 'refund settled') AS refunds,
        coalesce(sum(f.amount) FILTER (WHERE f.state = 'refund settled'), 0) AS refunded_amount,
        count(*) FILTER (WHERE f.state IN ('refund pending', 'pending', 'authorized', 'held', 'unknown')) AS pending_refunds,
        coalesce(
            sum(f.amount) FILTER (WHERE f.state IN ('refund pending', 'pending', 'authorized', 'held', 'unknown')), 0
        ) AS pending_refund_amount,
        count(*) FILTER (
            WHERE f.state IN ('settlement failed', 'returned', 'declined', 'expired', 'voided', 'error')
        ) AS failed_refunds
    FROM webhookd.settlements AS f
    WHERE f.account = s.account AND f.ref_transaction_id = s.transaction_id AND f.kind = 'refund'
) AS r
WHERE s.kind = 'charge';
COMMENT ON VIEW webhookd.sales IS
    'Each charge with the sums of its refunds. A refund that names no sale is in no row: look for it in webhookd.settlements.';
COMMENT ON COLUMN webhookd.sales.refunds IS 'How many refunds of this sale have settled.';
COMMENT ON COLUMN webhookd.sales.refunded_amount IS 'The sum of the refunds that have settled.';
COMMENT ON COLUMN webhookd.sales.pending_refunds IS 'How many refunds of this sale are on their way.';
COMMENT ON COLUMN webhookd.sales.pending_refund_amount IS 'The sum of the refunds that are on their way.';
COMMENT ON COLUMN webhookd.sales.failed_refunds IS
    'How many refunds of this sale gave no money back: declined, voided, failed in their settlement, or returned by the bank.';
COMMENT ON COLUMN webhookd.sales.returned_amount IS
    'What a bank took back from an eCheck. It is the whole sale, however often the eCheck was returned.';
COMMENT ON COLUMN webhookd.sales.left_amount IS
    'What settled, without what was refunded or returned. Less than zero if a sale was refunded and returned. NULL if nothing settled.';

CREATE VIEW webhookd.renewals AS
SELECT
    account,
    subscription_id,
    payment_number,
    coalesce(
        (array_agg(state ORDER BY place, submitted_at DESC NULLS LAST) FILTER (WHERE state IS NOT NULL))[1],
        CASE WHEN count(transaction_id) = 0 THEN 'failed' END
    ) AS state,
    (
        array_agg(transaction_id ORDER BY place NULLS LAST, submitted_at DESC NULLS LAST) FILTER (WHERE transaction_id IS NOT NULL)
    )[1] AS transaction_id,
    sum(settled_amount) AS settled_amount,
    max(settled_at) AS settled_at,
    greatest(max(attempt_number), count(DISTINCT transaction_id), count(*) FILTER (WHERE state IS NULL)) AS attempts,
    (array_agg(response ORDER BY attempt_number DESC NULLS LAST) FILTER (WHERE response IS NOT NULL))[1] AS last_failure,
    min(submitted_at) AS first_attempt_at,
    max(submitted_at) AS last_attempt_at
FROM (
    SELECT
        account,
        subscription_id,
        payment_number,
        transaction_id,
        attempt_number,
        submitted_at,
        CASE WHEN transaction_id IS NULL THEN response END AS response,
        NULL AS state,
        NULL::integer AS place,
        NULL::numeric AS settled_amount,
        NULL::timestamptz AS settled_at
    FROM webhookd.provider_attempts
    UNION ALL
    SELECT
        account,
        subscription_id,
        payment_number,
        transaction_id,
        NULL,
        submitted_at,
        NULL,
        state,
        CASE
            WHEN state = 'settled' THEN 1
            WHEN state = 'returned' THEN 2
            WHEN state IN ('pending', 'authorized', 'held', 'unknown') THEN 3
            ELSE 4
        END,
        settled_amount,
        settled_at
    FROM webhookd.settlements
    WHERE subscription_id IS NOT NULL AND kind = 'charge'
) AS payments
GROUP BY account, subscription_id, payment_number;
COMMENT ON VIEW webhookd.renewals IS
    'The payments of each subscription by their number, from the transactions and from the attempts that the provider reports.';
COMMENT ON COLUMN webhookd.renewals.payment_number IS 'Counts the payments from 1. NULL: the provider reports no number.';
COMMENT ON COLUMN webhookd.renewals.state IS
    'The state of the transaction that paid, as in webhookd.settlements; of the last transaction, if none paid; failed, if no attempt made '
    'a transaction. NULL: the provider names a transaction that webhookd has not seen yet.';
COMMENT ON COLUMN webhookd.renewals.settled_amount IS 'The sum of what settled for this payment.';
COMMENT ON COLUMN webhookd.renewals.attempts IS 'How often the provider tried.';
COMMENT ON COLUMN webhookd.renewals.last_failure IS 'The provider''s reason for the last attempt that failed without a transaction.';

CREATE VIEW webhookd.missed_renewals AS
SELECT
    m.account,
    m.subscription_id,
    m.expected_on,
    coalesce(m.amount, s.amount) AS amount,
    s.status,
    m.noted_at,
    m.came_at
FROM webhookd.provider_missed_renewals AS m
LEFT JOIN webhookd.provider_subscriptions AS s ON s.account = m.account AND s.subscription_id = m.subscription_id;
COMMENT ON VIEW webhookd.missed_renewals IS 'The renewals that were due by the schedule of a subscription, and did not come in time.';
COMMENT ON COLUMN webhookd.missed_renewals.expected_on IS 'The day on which the renewal was due, in the account''s time zone.';
COMMENT ON COLUMN webhookd.missed_renewals.status IS 'The present status of the subscription, as the provider writes it.';
COMMENT ON COLUMN webhookd.missed_renewals.came_at IS 'When an attempt at the payment came after all. NULL: none came.';
