-- name: begin_sweep(account, oldest, at)^
-- Returns how far the sweep of an account has come; `is_new`: it begins now. The first sweep of an account begins at the time from which its credentials are used.
WITH begun AS (
    INSERT INTO webhookd.provider_sweeps (account, swept_from, begun_at)
    SELECT :account, greatest(:oldest::timestamptz, (SELECT compared_from FROM webhookd.provider_accounts WHERE account = :account)), :at
    WHERE NOT EXISTS (SELECT FROM webhookd.provider_sweeps WHERE account = :account)
    ORDER BY 2
    ON CONFLICT DO NOTHING
    RETURNING swept_from, batches_listed_at, unsettled_at, asked, asked_at, swept_at, begun_at
)
SELECT *, true AS is_new FROM begun
UNION ALL
SELECT swept_from, batches_listed_at, unsettled_at, asked, asked_at, swept_at, begun_at, false FROM webhookd.provider_sweeps WHERE account = :account;

-- name: note_batches(account, batches, at, listed)!
-- Records batches that the provider lists, a JSON array, before their transactions are read. A batch whose state or sums have changed is to
-- be read again: its time of the last look stays, and it is open. A time or sums that the list lacks are no change: the batch's own
-- statistics may have had them. `listed`: all batches up to `at` are among these.
WITH noted AS (
    INSERT INTO webhookd.provider_batches AS b (
        account, batch_id, settlement_state, settled_at, payment_method, statistics, reasons, first_at
    )
    SELECT :account, batch_id, settlement_state, settled_at, payment_method, statistics, ARRAY[reason], :at
    FROM jsonb_to_recordset(:batches::jsonb) AS r (
        batch_id text, settlement_state text, settled_at timestamptz, payment_method text, statistics jsonb, reason text
    )
    ORDER BY batch_id
    ON CONFLICT (account, batch_id) DO UPDATE SET
        settlement_state = excluded.settlement_state, settled_at = coalesce(excluded.settled_at, b.settled_at),
        payment_method = coalesce(excluded.payment_method, b.payment_method),
        statistics = coalesce(nullif(excluded.statistics, '[]'), b.statistics), reasons = excluded.reasons, changed = true
    WHERE (b.settlement_state, b.settled_at, b.statistics) IS DISTINCT FROM (
        excluded.settlement_state, coalesce(excluded.settled_at, b.settled_at), coalesce(nullif(excluded.statistics, '[]'), b.statistics)
    )
)
UPDATE webhookd.provider_sweeps SET batches_listed_at = :at WHERE account = :account AND :listed;

-- name: batches_to_read(account, at, shortest, pending, final, limit)
-- Returns batches whose transactions are to be read at `at`, the oldest settlement first: those that were not read since they were listed
-- or have changed, and open ones. A batch that is not final is first read six hours after it was listed. The pauses between looks at an open batch grow: an eighth of its age, and at least `shortest` seconds, or
-- `pending` seconds if its state is none of `final`.
SELECT batch_id, settlement_state, settled_at, payment_method, statistics, looked_at IS NOT NULL AS again
FROM webhookd.provider_batches
WHERE account = :account AND (
    changed
    OR (
        looked_at IS NULL
        AND (lower(settlement_state) = ANY(:final::text[]) OR first_at + interval '6 hours' <= :at::timestamptz)
    )
    OR (
        reasons <> '{}'
        AND looked_at + greatest(
            make_interval(secs => CASE WHEN lower(settlement_state) = ANY(:final::text[]) THEN :shortest::float8 ELSE :pending::float8 END),
            (looked_at - first_at) / 8
        ) <= :at::timestamptz
    )
)
ORDER BY settled_at NULLS LAST, batch_id COLLATE "C"
LIMIT :limit;

-- name: write_batch(account, batch, at)!
-- Records what the comparison of a batch's transactions with its statistics found. `batch`: a JSON object.
UPDATE webhookd.provider_batches AS b
SET settlement_state = r.settlement_state, settled_at = r.settled_at, payment_method = r.payment_method, statistics = r.statistics,
    totals = r.totals, reasons = r.reasons, transactions = r.transactions, looked_at = :at, changed = false
FROM jsonb_to_record(:batch::jsonb) AS r (
    batch_id text, settlement_state text, settled_at timestamptz, payment_method text, statistics jsonb, totals jsonb, reasons text[],
    transactions integer
)
WHERE b.account = :account AND b.batch_id = r.batch_id;

-- name: count_open_batches(account)$
SELECT count(*) FROM webhookd.provider_batches WHERE account = :account AND (reasons <> '{}' OR looked_at IS NULL);

-- name: note_question(account, at)!
-- Records that a question of the day is asked now.
UPDATE webhookd.provider_sweeps SET asked_at = :at WHERE account = :account;

-- name: note_answer(account, asked, unsettled_at, time_zone)!
-- Records that a question of the day was answered. `asked`: how many were; 0: all. `unsettled_at`: when the unsettled transactions were
-- listed to the end, if this was the question.
UPDATE webhookd.provider_sweeps
SET asked = :asked, unsettled_at = coalesce(:unsettled_at, unsettled_at), time_zone = coalesce(:time_zone, time_zone)
WHERE account = :account;

-- name: note_swept(account, at)!
-- Records that a sweep has ended: nothing more was to be read.
UPDATE webhookd.provider_sweeps SET swept_at = :at WHERE account = :account;

-- name: transactions_to_look_at(account, at, limit)
-- Returns transactions that are to be asked for by their ids, the longest overdue first.
SELECT
    transaction_id, version, status, seen_at, next_look_at, amount, batch_id, settled_at, submitted_at, type, ref_transaction_id,
    account_type, invoice_number, subscription_id, payment_number, echeck, detailed, lists_returns, returned_items, failed_batches, listed_in
FROM webhookd.provider_transactions
WHERE account = :account AND next_look_at <= :at
ORDER BY next_look_at, transaction_id
LIMIT :limit;
