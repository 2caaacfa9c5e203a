-- What people see of the provider's side. All are short lists.

-- name: list_provider_accounts(account)
-- Returns the accounts that have, or had, credentials, or the one with this name. `held`: a replica asks the provider for the account, or
-- did so within a minute, in which another one takes over. `unattended`: a replica asked within three days, and none does now.
-- `uncompared`: no comparison has ended for two hours. `days_not_whole` looks at the last 14 days, without today, since the first day that
-- was compared: a day without a result, and one that is open six hours after its end, are not whole, either.
SELECT
    a.account, a.provider, a.held_until > now() - interval '1 minute' AS held,
    a.held_until BETWEEN now() - interval '3 days' AND now() - interval '1 minute' AS unattended, a.credentials, a.credentials_since, a.checked_at, a.gateway_id,
    a.merchant_name, a.test_mode, a.features_off, a.compared_to, a.compared_at,
    greatest(a.compared_at, a.credentials_since) < now() - interval '2 hours' AS uncompared, a.webhook_id, a.webhook_state, a.webhook_since,
    a.webhook_detail, a.webhook_seen_at, f.first_day, d.days_not_whole
FROM webhookd.provider_accounts a
CROSS JOIN LATERAL (SELECT min(day) AS first_day FROM webhookd.provider_days WHERE account = a.account) f
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS days_not_whole
    FROM generate_series(0, 13) AS s (age)
    CROSS JOIN LATERAL (SELECT (now() AT TIME ZONE 'UTC')::date - 1 - s.age AS day) at
    LEFT JOIN webhookd.provider_days r ON r.account = a.account AND r.day = at.day
    WHERE at.day >= f.first_day AND CASE r.completeness
        WHEN 'whole' THEN false
        WHEN 'open' THEN at.day + interval '30 hours' < now() AT TIME ZONE 'UTC'
        ELSE true
    END
) d
WHERE :account::text IS NULL OR a.account = :account
ORDER BY a.account;

-- name: list_provider_days(account, days)
-- Returns the days of an account, the newest first, that began within the last `days`; today is one of them. Days after today were judged
-- while the clock was wrong.
SELECT day, completeness, listed, ours, recovered, missing, waiting, unreadable, unlisted, looks, looked_at
FROM webhookd.provider_days
WHERE account = :account AND day > (now() AT TIME ZONE 'UTC')::date - :days::integer AND day <= (now() AT TIME ZONE 'UTC')::date
ORDER BY day DESC;

-- name: last_provider_days()
-- Returns for each account the newest day that is over.
SELECT DISTINCT ON (account)
    account, day, completeness, listed, ours, recovered, missing, waiting, unreadable, unlisted, looks, looked_at
FROM webhookd.provider_days
WHERE day < (now() AT TIME ZONE 'UTC')::date AND day >= (now() AT TIME ZONE 'UTC')::date - 14
ORDER BY account, day DESC;

-- name: list_provider_calls(account, limit)
-- Returns the last calls of the provider's API, the newest first.
SELECT at, name, seconds, error FROM webhookd.provider_calls WHERE account = :account ORDER BY at DESC, id DESC LIMIT :limit;

-- name: list_provider_changes(account, limit)
-- Returns what webhookd changed at the provider, the newest first.
SELECT at, actor, change, webhook_id, detail FROM webhookd.provider_changes
WHERE account = :account ORDER BY at DESC, id DESC LIMIT :limit;

-- name: list_provider_tests(account, limit)
-- Returns the samples that pings brought, the newest first.
SELECT received_at, notification_id, event_type, webhook_id, key_fingerprint FROM webhookd.provider_tests
WHERE account = :account AND body IS NULL ORDER BY received_at DESC, id DESC LIMIT :limit;

-- name: count_provider_tests(account, most)$
-- Returns how many notifications were kept as tests in the last seven days, at most `most`.
SELECT count(*)::int FROM (
    SELECT FROM webhookd.provider_tests
    WHERE account = :account AND body IS NULL AND received_at > now() - interval '7 days'
    LIMIT :most
) t;

-- name: list_unreadable_notifications(account, limit)
-- Returns the notifications of the history that cannot become events, the newest first.
SELECT notification_id, reason, event_type, event_date, tries, last_at FROM webhookd.provider_notifications
WHERE account = :account AND status = 'unreadable' ORDER BY first_at DESC, notification_id LIMIT :limit;
