-- name: hold_provider_account(account, holder, seconds, provider)$
-- Takes or keeps the right to ask the provider for an account, for `seconds`. Returns true if this holder has the right now. If the right
-- of another holder ends more than ten minutes from now, a clock that has been put back since set this time. Then the right is free.
INSERT INTO webhookd.provider_accounts AS a (account, holder, held_until, provider)
VALUES (:account, :holder::uuid, now() + make_interval(secs => :seconds::float8), :provider)
ON CONFLICT (account) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until, provider = excluded.provider
WHERE a.holder = excluded.holder OR a.held_until < now() OR a.held_until > now() + interval '10 minutes'
RETURNING true;

-- name: release_provider_account(account, holder)!
-- Ends this holder's right to ask for an account, so that another replica takes over at once.
UPDATE webhookd.provider_accounts SET held_until = '-infinity' WHERE account = :account AND holder = :holder::uuid;

-- name: set_provider_credentials(account, state)!
-- Records whether the provider takes an account's credentials. `credentials_since` stays while the state is the same.
UPDATE webhookd.provider_accounts
SET credentials = :state,
    credentials_since = CASE WHEN credentials = :state THEN credentials_since ELSE now() END,
    checked_at = CASE WHEN :state = 'good' THEN now() ELSE checked_at END
WHERE account = :account;

-- name: set_provider_merchant(account, gateway_id, merchant_name, test_mode, features_off)!
-- Records whose account the credentials are for, and the parts of the API that the account may not use.
UPDATE webhookd.provider_accounts
SET gateway_id = :gateway_id, merchant_name = :merchant_name, test_mode = :test_mode, features_off = :features_off::text[]
WHERE account = :account;

-- name: add_provider_calls(ids, accounts, ats, names, seconds, errors)!
-- Keeps calls for people to look at.
INSERT INTO webhookd.provider_calls (id, account, at, name, seconds, error)
SELECT * FROM unnest(
    :ids::uuid[], :accounts::text[], :ats::timestamptz[], :names::text[], :seconds::float8[], :errors::text[]
);
