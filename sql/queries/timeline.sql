-- name: keep_transaction(account, id, facts)!
-- Folds one event's facts into a transaction's row. Facts come as text, whatever codec a user's handler set for jsonb.
INSERT INTO webhookd.transactions AS t (account, transaction_id, facts)
VALUES (:account, :id, webhookd.settle(:facts::text::jsonb))
ON CONFLICT (account, transaction_id) DO UPDATE SET facts = webhookd.settle(webhookd.fold(t.facts, excluded.facts));

-- name: keep_subscription(account, id, facts)!
-- Folds one event's facts into a subscription's row.
INSERT INTO webhookd.subscriptions AS s (account, subscription_id, facts)
VALUES (:account, :id, :facts::text::jsonb)
ON CONFLICT (account, subscription_id) DO UPDATE SET facts = webhookd.fold(s.facts, excluded.facts);

-- name: keep_customer(account, id, facts)!
-- Folds one event's facts into a customer's row.
INSERT INTO webhookd.customers AS c (account, customer_profile_id, facts)
VALUES (:account, :id, :facts::text::jsonb)
ON CONFLICT (account, customer_profile_id) DO UPDATE SET facts = webhookd.fold(c.facts, excluded.facts);

-- name: keep_payment_profile(account, id, facts)!
-- Folds one event's facts into a payment profile's row.
INSERT INTO webhookd.payment_profiles AS p (account, payment_profile_id, facts)
VALUES (:account, :id, :facts::text::jsonb)
ON CONFLICT (account, payment_profile_id) DO UPDATE SET facts = webhookd.fold(p.facts, excluded.facts);
