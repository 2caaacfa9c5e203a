-- name: subscription_lists(account)^
-- Returns when the subscriptions were last listed to the end, or NULL, and how many lists were read since then.
SELECT subscriptions_at, subscription_lists FROM webhookd.provider_sweeps WHERE account = :account;

-- name: note_subscription_list(account, lists, ended_at)!
-- Records how many lists of subscriptions were read. `ended_at`: the time, if they were the last; then the next ones begin anew.
UPDATE webhookd.provider_sweeps
SET subscription_lists = CASE WHEN :ended_at::timestamptz IS NULL THEN :lists::integer ELSE 0 END,
    subscriptions_at = coalesce(:ended_at, subscriptions_at)
WHERE account = :account;

-- name: known_subscriptions(account, subscription_ids)
-- Returns what is known of these subscriptions.
SELECT
    subscription_id, status, status_since, created_at, amount, past_occurrences, total_occurrences, invoice_number, card_expires,
    interval_length, interval_unit, starts_on, trial_occurrences, trial_amount, judged_to, seen_at, detailed_at, next_look_at
FROM webhookd.provider_subscriptions
WHERE account = :account AND subscription_id = ANY(:subscription_ids::text[]);

-- name: subscriptions_to_look_at(account, at, limit)
-- Returns subscriptions whose next look is due at `at`, the longest overdue first.
SELECT
    subscription_id, status, status_since, created_at, amount, past_occurrences, total_occurrences, invoice_number, card_expires,
    interval_length, interval_unit, starts_on, trial_occurrences, trial_amount, judged_to, seen_at, detailed_at, next_look_at
FROM webhookd.provider_subscriptions
WHERE account = :account AND next_look_at <= :at
ORDER BY next_look_at, subscription_id
LIMIT :limit;

-- name: write_subscriptions(account, rows)!
-- Writes what is known of subscriptions, a JSON array of rows. A day that was judged stays judged.
INSERT INTO webhookd.provider_subscriptions AS s (
    account, subscription_id, status, status_since, created_at, amount, past_occurrences, total_occurrences, invoice_number, card_expires,
    interval_length, interval_unit, starts_on, trial_occurrences, trial_amount, judged_to, seen_at, detailed_at, next_look_at
)
SELECT
    :account, subscription_id, status, status_since, created_at, amount, past_occurrences, total_occurrences, invoice_number, card_expires,
    interval_length, interval_unit, starts_on, trial_occurrences, trial_amount, judged_to, seen_at, detailed_at, next_look_at
FROM jsonb_to_recordset(:rows::jsonb) AS r (
    subscription_id text, status text, status_since timestamptz, created_at timestamptz, amount numeric, past_occurrences bigint,
    total_occurrences bigint, invoice_number text, card_expires text, interval_length bigint, interval_unit text, starts_on date,
    trial_occurrences bigint, trial_amount numeric, judged_to date, seen_at timestamptz, detailed_at timestamptz, next_look_at timestamptz
)
ORDER BY subscription_id
ON CONFLICT (account, subscription_id) DO UPDATE SET
    status = excluded.status, status_since = excluded.status_since, created_at = excluded.created_at, amount = excluded.amount,
    past_occurrences = excluded.past_occurrences, total_occurrences = excluded.total_occurrences,
    invoice_number = excluded.invoice_number, card_expires = excluded.card_expires, interval_length = excluded.interval_length,
    interval_unit = excluded.interval_unit, starts_on = excluded.starts_on, trial_occurrences = excluded.trial_occurrences,
    trial_amount = excluded.trial_amount, judged_to = greatest(s.judged_to, excluded.judged_to), seen_at = excluded.seen_at,
    detailed_at = excluded.detailed_at, next_look_at = excluded.next_look_at;

-- name: write_attempts(account, subscription_id, rows)!
-- Writes attempts at payments of a subscription, a JSON array of rows. An attempt that was judged stays judged.
INSERT INTO webhookd.provider_attempts AS a (
    account, subscription_id, key, payment_number, attempt_number, transaction_id, submitted_at, response, judged
)
SELECT :account, :subscription_id, key, payment_number, attempt_number, transaction_id, submitted_at, response, judged
FROM jsonb_to_recordset(:rows::jsonb) AS r (
    key text, payment_number bigint, attempt_number bigint, transaction_id text, submitted_at timestamptz, response text, judged boolean
)
ORDER BY key
ON CONFLICT (account, subscription_id, key) DO UPDATE SET
    transaction_id = excluded.transaction_id, submitted_at = excluded.submitted_at, response = excluded.response,
    judged = a.judged OR excluded.judged;

-- name: attempts_of_subscription(account, subscription_id)
SELECT key, payment_number, attempt_number, transaction_id, submitted_at, response, judged
FROM webhookd.provider_attempts
WHERE account = :account AND subscription_id = :subscription_id;

-- name: payments_of_subscription(account, subscription_id)
-- Returns the times of the transactions of a subscription.
SELECT submitted_at FROM webhookd.provider_transactions
WHERE account = :account AND subscription_id = :subscription_id AND submitted_at IS NOT NULL;

-- name: reported_failures(account, subscription_id)
-- Returns the times of the failed payments of a subscription that webhooks have reported. With coalesce(), the join stays a left join, as in
-- events_of_entity.
SELECT coalesce(l.event_date, l.received_at) AS at
FROM webhookd.ledger l LEFT JOIN webhookd.kinds k ON k.id = l.kind
WHERE l.entity_id = :subscription_id AND coalesce(k.account, '') = :account AND coalesce(k.entity_name, '') = 'subscription'
    AND coalesce(k.event_type, '') = 'net.authorize.customer.subscription.failed';

-- name: note_missed_renewals(account, subscription_id, days, amount)!
INSERT INTO webhookd.provider_missed_renewals (account, subscription_id, expected_on, amount)
SELECT :account, :subscription_id, day, :amount FROM unnest(:days::date[]) AS days (day)
ORDER BY day
ON CONFLICT DO NOTHING;

-- name: missed_renewals_of(account, subscription_id)
-- Returns the days of the renewals that were missed and did not come since.
SELECT expected_on FROM webhookd.provider_missed_renewals
WHERE account = :account AND subscription_id = :subscription_id AND came_at IS NULL;

-- name: note_late_renewal(account, subscription_id, day, at)!
UPDATE webhookd.provider_missed_renewals SET came_at = :at
WHERE account = :account AND subscription_id = :subscription_id AND expected_on = :day;
