-- name: provider_facts(account, transaction_ids)
-- Returns what is known of these transactions.
SELECT
    transaction_id, version, status, seen_at, next_look_at, amount, batch_id, settled_at, submitted_at, type, ref_transaction_id,
    account_type, invoice_number, subscription_id, payment_number, echeck, detailed, lists_returns, returned_items, failed_batches, listed_in
FROM webhookd.provider_transactions
WHERE account = :account AND transaction_id = ANY(:transaction_ids::text[]);

-- name: write_provider_facts(account, facts)
-- Writes the facts of transactions, a JSON array of rows. A row is written only if its version follows the stored one.
-- Returns the ids that were written.
INSERT INTO webhookd.provider_transactions AS t (
    account, transaction_id, version, status, state, seen_at, next_look_at, amount, batch_id, settled_at, submitted_at, type,
    ref_transaction_id, account_type, invoice_number, subscription_id, payment_number, echeck, detailed, lists_returns, returned_items,
    failed_batches, listed_in
)
SELECT
    :account, transaction_id, version, status, state, seen_at, next_look_at, amount, batch_id, settled_at, submitted_at, type,
    ref_transaction_id, account_type, invoice_number, subscription_id, payment_number, echeck, detailed, lists_returns, returned_items,
    failed_batches, listed_in
FROM jsonb_to_recordset(:facts::jsonb) AS r (
    transaction_id text, version integer, status text, state text, seen_at timestamptz, next_look_at timestamptz, amount numeric,
    batch_id text, settled_at timestamptz, submitted_at timestamptz, type text, ref_transaction_id text, account_type text,
    invoice_number text, subscription_id text, payment_number bigint, echeck boolean, detailed boolean, lists_returns boolean,
    returned_items jsonb, failed_batches text[], listed_in text[]
)
ORDER BY transaction_id
ON CONFLICT (account, transaction_id) DO UPDATE SET
    version = excluded.version, status = excluded.status, state = excluded.state, seen_at = excluded.seen_at,
    next_look_at = excluded.next_look_at, amount = excluded.amount, batch_id = excluded.batch_id, settled_at = excluded.settled_at,
    submitted_at = excluded.submitted_at, type = excluded.type, ref_transaction_id = excluded.ref_transaction_id,
    account_type = excluded.account_type, invoice_number = excluded.invoice_number, subscription_id = excluded.subscription_id,
    payment_number = excluded.payment_number, echeck = excluded.echeck, detailed = excluded.detailed,
    lists_returns = excluded.lists_returns, returned_items = excluded.returned_items, failed_batches = excluded.failed_batches,
    listed_in = excluded.listed_in
WHERE t.version = excluded.version - 1
RETURNING transaction_id;
