-- name: keep_transactions(accounts, ids, facts)!
-- Folds facts into transactions' rows, each named once. Facts come as text, whatever codec a user's handler set for jsonb.
-- The caller sorts the arrays, so that two transactions with the same rows take their locks in the same order.
INSERT INTO transactions AS t (account, transaction_id, facts)
SELECT account, id, facts::jsonb FROM unnest(:accounts::text[], :ids::text[], :facts::text[]) AS k (account, id, facts)
ON CONFLICT (account, transaction_id) DO UPDATE SET facts = webhookd_fold(t.facts, excluded.facts);

-- name: keep_subscriptions(accounts, ids, facts)!
-- Folds facts into subscriptions' rows, each named once.
INSERT INTO subscriptions AS s (account, subscription_id, facts)
SELECT account, id, facts::jsonb FROM unnest(:accounts::text[], :ids::text[], :facts::text[]) AS k (account, id, facts)
ON CONFLICT (account, subscription_id) DO UPDATE SET facts = webhookd_fold(s.facts, excluded.facts);

-- name: keep_customers(accounts, ids, facts)!
-- Folds facts into customers' rows, each named once.
INSERT INTO customers AS c (account, customer_profile_id, facts)
SELECT account, id, facts::jsonb FROM unnest(:accounts::text[], :ids::text[], :facts::text[]) AS k (account, id, facts)
ON CONFLICT (account, customer_profile_id) DO UPDATE SET facts = webhookd_fold(c.facts, excluded.facts);

-- name: keep_payment_profiles(accounts, ids, facts)!
-- Folds facts into payment profiles' rows, each named once.
INSERT INTO payment_profiles AS p (account, payment_profile_id, facts)
SELECT account, id, facts::jsonb FROM unnest(:accounts::text[], :ids::text[], :facts::text[]) AS k (account, id, facts)
ON CONFLICT (account, payment_profile_id) DO UPDATE SET facts = webhookd_fold(p.facts, excluded.facts);
