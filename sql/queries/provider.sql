-- Statements about the provider's side of each account. One replica, the holder, asks the provider for an account.
-- A statement with the parameter `holder` writes only while this replica is the holder. If it is not, the statement returns no row: a process
-- that was frozen for longer than its right lasted may still try to write, while another replica works on the account.

-- name: hold_provider_account(account, holder, seconds, provider)$
-- Takes or keeps the right to ask the provider for an account, for `seconds`. Returns true if this holder has the right now. If the right
-- of another holder ends more than ten minutes from now, a clock that has been put back since set this time. Then the right is free.
INSERT INTO webhookd.provider_accounts AS a (account, holder, held_until, provider)
VALUES (:account, :holder::uuid, now() + make_interval(secs => :seconds::float8), :provider)
ON CONFLICT (account) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until, provider = excluded.provider
WHERE a.holder IS NULL OR a.holder = excluded.holder OR a.held_until < now() OR a.held_until > now() + interval '10 minutes'
RETURNING true;

-- name: release_provider_account(account, holder)!
-- Ends this holder's right to ask for an account, so that another replica takes over at once. `held_until` keeps the time: if nobody takes
-- over, an alert must come.
UPDATE webhookd.provider_accounts SET holder = NULL, held_until = least(held_until, now()) WHERE account = :account AND holder = :holder::uuid;

-- name: set_provider_credentials(account, holder, state)$
-- Records whether the provider takes an account's credentials. `credentials_since` stays while the state is the same.
UPDATE webhookd.provider_accounts
SET credentials = :state,
    credentials_since = CASE WHEN credentials = :state THEN credentials_since ELSE now() END,
    checked_at = CASE WHEN :state = 'good' THEN now() ELSE checked_at END
WHERE account = :account AND holder = :holder::uuid
RETURNING true;

-- name: set_provider_merchant(account, holder, gateway_id, merchant_name, test_mode, features_off)$
-- Records whose account the credentials are for, and the parts of the API that the account may not use. Returns true if the credentials are
-- for another account of the provider than before. Then the comparison begins anew: the webhooks of before are not ours here, older
-- notifications are not webhookd's business, and the days that were compared with the other account's history are not known.
WITH moved AS MATERIALIZED (
    SELECT gateway_since FROM webhookd.provider_accounts
    WHERE account = :account AND holder = :holder::uuid AND gateway_id <> :gateway_id
    FOR UPDATE
), days AS (
    UPDATE webhookd.provider_days AS d
    SET completeness = 'not known', most = 0, looks = 0, looked_at = NULL, since = now()
    FROM moved
    WHERE d.account = :account AND d.day >= (moved.gateway_since AT TIME ZONE 'UTC')::date
)
UPDATE webhookd.provider_accounts
SET gateway_id = coalesce(:gateway_id, gateway_id), merchant_name = :merchant_name, test_mode = :test_mode,
    features_off = :features_off::text[],
    gateway_since = CASE WHEN EXISTS (SELECT FROM moved) THEN now() ELSE gateway_since END,
    compared_from = CASE WHEN EXISTS (SELECT FROM moved) THEN now() ELSE compared_from END,
    compared_to = CASE WHEN EXISTS (SELECT FROM moved) THEN NULL ELSE compared_to END,
    our_webhooks = CASE WHEN EXISTS (SELECT FROM moved) THEN '{}' ELSE our_webhooks END
WHERE account = :account AND holder = :holder::uuid
RETURNING EXISTS (SELECT FROM moved);

-- name: add_provider_calls(ids, accounts, ats, names, seconds, errors)!
-- Keeps calls for people to look at.
INSERT INTO webhookd.provider_calls (id, account, at, name, seconds, error)
SELECT * FROM unnest(
    :ids::uuid[], :accounts::text[], :ats::timestamptz[], :names::text[], :seconds::float8[], :errors::text[]
);

-- name: provider_bounds(account)^
-- Returns how far the comparison has come.
SELECT compared_from, compared_to, coalesce(compared_at, credentials_since) AS compared_at,
    CASE WHEN webhook_state IN ('ok', 'inactive', 'event_types', 'doubled') THEN our_webhooks || webhook_id ELSE our_webhooks END AS our_webhooks
FROM webhookd.provider_accounts WHERE account = :account;

-- name: provider_days(account, first, last)
-- Returns the results of the last comparisons, the oldest day first.
SELECT day, completeness, listed, ours, recovered, missing, waiting, unreadable, unlisted, most, looks, looked_at
FROM webhookd.provider_days
WHERE account = :account AND day BETWEEN :first::date AND :last::date ORDER BY day;

-- name: known_notifications(notification_keys)
-- Returns those of the notifications that are in the ledger, under their own id or as an alias, by their position in the array.
-- `recovered`: the event came from the history.
SELECT i.position, l.id AS event_id, l.event_date, l.received_at, coalesce(k.key_fingerprint = 'history', false) AS recovered
FROM unnest(:notification_keys::uuid[]) WITH ORDINALITY AS i (notification_key, position)
LEFT JOIN LATERAL (SELECT id FROM webhookd.ledger WHERE notification_key = i.notification_key OFFSET 0) AS same ON true
LEFT JOIN LATERAL (
    SELECT event_id FROM webhookd.notification_aliases WHERE notification_key = i.notification_key OFFSET 0
) AS alias ON true
CROSS JOIN LATERAL (
    SELECT id, event_date, received_at, kind FROM webhookd.ledger WHERE id = coalesce(same.id, alias.event_id) OFFSET 0
) AS l
LEFT JOIN webhookd.kinds k ON k.id = l.kind;

-- name: events_of_days(account, after_id, since, looked)
-- Reads `looked` events of the ledger after an id, and returns those of the account whose eventDate is `since` or later,
-- without synthetic ones, which no history lists. `last_id` is the last
-- event that was read; it is NULL at the end of the ledger.
WITH looked AS MATERIALIZED (
    SELECT id, kind, notification_id, event_date FROM webhookd.ledger WHERE id > :after_id::uuid ORDER BY id LIMIT :looked
)
SELECT (SELECT id FROM looked ORDER BY id DESC LIMIT 1) AS last_id, f.notification_id, f.event_date, f.recovered
FROM (SELECT 1) AS one
LEFT JOIN (
    SELECT l.notification_id, l.event_date, k.key_fingerprint = 'history' AS recovered
    FROM looked AS l JOIN webhookd.kinds k ON k.id = l.kind
    WHERE k.account = :account AND k.key_fingerprint <> 'synthetic' AND l.event_date >= :since::timestamptz
) AS f ON true;

-- name: bodies_of_webhooks(account, seconds, looked, limit)
-- Returns the newest bodies that a Signature Key of the account verified, among the last `looked` events of the last `seconds`.
SELECT b.body
FROM (SELECT id, kind FROM webhookd.ledger WHERE id >= webhookd.id_before(:seconds) ORDER BY id DESC LIMIT :looked) AS l
JOIN webhookd.kinds k ON k.id = l.kind
CROSS JOIN LATERAL (SELECT body FROM webhookd.bodies WHERE event_id = l.id OFFSET 0) AS b
WHERE k.account = :account AND k.key_fingerprint NOT IN ('', 'history', 'synthetic')
ORDER BY l.id DESC
LIMIT :limit;

-- name: provider_notifications(account, since)
-- Returns the notifications that were not in the ledger. `due`: one that could not be read is to be tried again; the
-- pauses double from ten minutes to a day, for thirty days.
SELECT
    notification_id, status, reason, event_type, event_date,
    status = 'unreadable' AND first_at > now() - interval '30 days'
        AND last_at + least(interval '10 minutes' * 2 ^ least(tries - 1, 10), interval '1 day') <= now() AS due
FROM webhookd.provider_notifications
WHERE account = :account AND (event_date IS NULL OR event_date >= :since::timestamptz);

-- name: note_provider_notifications(account, notification_ids, statuses, reasons, event_types, event_dates)!
-- Records why notifications of the history are not in the ledger. The caller sorts them by their ids.
INSERT INTO webhookd.provider_notifications AS n (account, notification_id, status, reason, event_type, event_date)
SELECT :account, i.notification_id, i.status, i.reason, i.event_type, i.event_date
FROM unnest(
    :notification_ids::text[], :statuses::text[], :reasons::text[], :event_types::text[], :event_dates::timestamptz[]
) AS i (notification_id, status, reason, event_type, event_date)
ORDER BY i.notification_id
ON CONFLICT (account, notification_id) DO UPDATE
SET status = excluded.status, reason = excluded.reason, event_date = coalesce(excluded.event_date, n.event_date), tries = n.tries + 1,
    last_at = now();

-- name: forget_provider_notifications(account, notification_ids)!
-- Removes the reasons of notifications that are in the ledger now.
WITH gone AS MATERIALIZED (
    SELECT notification_id FROM webhookd.provider_notifications
    WHERE account = :account AND notification_id = ANY(:notification_ids::text[])
    ORDER BY notification_id
    FOR UPDATE
)
DELETE FROM webhookd.provider_notifications
WHERE account = :account AND notification_id = ANY(ARRAY(SELECT notification_id FROM gone));

-- name: pings_without_sample(account, since)
-- Returns the pings since a time whose sample did not come, or is not decided.
SELECT webhook_id, opened_at, closes_at
FROM webhookd.provider_pings AS p
WHERE account = :account AND closes_at >= :since::timestamptz AND sent IS NOT FALSE
    AND NOT EXISTS (SELECT FROM webhookd.provider_tests WHERE account = p.account AND ping = p.id AND body IS NULL);

-- name: provider_tests_since(account, since)
-- Returns the ids of the samples that arrived since a time. What is held is none.
SELECT notification_id FROM webhookd.provider_tests
WHERE account = :account AND received_at >= :since::timestamptz AND body IS NULL;

-- name: record_comparison(account, holder, compared_from, compared_to, days, completeness, listed, ours, recovered, missing, waiting, unreadable, unlisted, most, looks, looked_ats)$
-- Records the result of a comparison: the days, and how far the comparison has come.
WITH held AS (
    UPDATE webhookd.provider_accounts
    SET compared_from = least(compared_from, :compared_from::timestamptz), compared_to = :compared_to::date, compared_at = now()
    WHERE account = :account AND holder = :holder::uuid
    RETURNING true
), days AS (
    INSERT INTO webhookd.provider_days AS d (
        account, day, completeness, listed, ours, recovered, missing, waiting, unreadable, unlisted, most, looks, looked_at
    )
    SELECT :account, i.*
    FROM unnest(
        :days::date[], :completeness::text[], :listed::integer[], :ours::integer[], :recovered::integer[], :missing::integer[],
        :waiting::integer[], :unreadable::integer[], :unlisted::integer[], :most::integer[], :looks::integer[],
        :looked_ats::timestamptz[]
    ) AS i (day, completeness, listed, ours, recovered, missing, waiting, unreadable, unlisted, most, looks, looked_at)
    WHERE EXISTS (SELECT FROM held)
    ORDER BY i.day
    ON CONFLICT (account, day) DO UPDATE
    SET completeness = excluded.completeness, listed = excluded.listed, ours = excluded.ours, recovered = excluded.recovered,
        missing = excluded.missing, waiting = excluded.waiting, unreadable = excluded.unreadable, unlisted = excluded.unlisted,
        most = excluded.most, looks = excluded.looks, looked_at = excluded.looked_at,
        since = CASE WHEN d.completeness = excluded.completeness THEN d.since ELSE now() END
)
SELECT true FROM held;

-- name: provider_figures(account)^
-- Returns the sums of the last 14 days: for the metrics.
SELECT
    coalesce(sum(missing), 0)::bigint AS missing,
    coalesce(sum(unreadable), 0)::bigint AS unreadable,
    count(*) FILTER (
        WHERE day < (now() AT TIME ZONE 'UTC')::date AND completeness IN ('missing', 'unreadable', 'not known')
    ) AS days_not_whole
FROM webhookd.provider_days
WHERE account = :account AND day BETWEEN (now() AT TIME ZONE 'UTC')::date - 14 AND (now() AT TIME ZONE 'UTC')::date;

-- name: order_gaps(id, account, since, actor, reason)^
-- Stores an operator's order to take from the history what is missing since a day.
-- An order is a row of operations, so that it is listed, followed and cancelled as one. `gaps` in the selection distinguishes it from a
-- replay of events. held_until is infinite, so that no release of webhookd takes it for one.
INSERT INTO webhookd.operations (id, kind, dry_run, actor, reason, selection, rate, held_until)
VALUES (
    :id, 'replay', false, :actor, :reason, jsonb_build_object('gaps', true, 'account', :account::text, 'since', :since::date), 0, 'infinity'
)
RETURNING *;

-- name: ordered_gaps(account)^
-- Returns the oldest order of an account that has not ended.
SELECT id, (selection->>'since')::date AS since, done
FROM webhookd.operations
WHERE finished_at IS NULL AND selection->>'gaps' = 'true' AND selection->>'account' = :account
ORDER BY created_at
LIMIT 1;

-- name: advance_gaps(account, holder, id, total, done, taken, held_by, error, ended)$
-- Records how far an order has come: its days, and the notifications that were taken. An order that was cancelled stays as it is.
WITH {held}, advanced AS (
    UPDATE webhookd.operations
    SET state = CASE WHEN NOT :ended::boolean THEN 'working' WHEN :error::text IS NULL THEN 'done' ELSE 'failed' END, error = :error,
        total = :total, done = :done, held_by = :held_by,
        reasons = jsonb_build_object('recovered', coalesce((reasons->>'recovered')::bigint, 0) + :taken::bigint),
        updated_at = now(), finished_at = CASE WHEN :ended::boolean THEN now() END
    WHERE id = :id AND finished_at IS NULL AND EXISTS (SELECT FROM held)
)
SELECT true FROM held;

-- name: fail_gaps(account, holder, id, error)$
-- Ends an order that fails by a defect, with its error. Then the account's next order can begin.
WITH {held}, failed AS (
    UPDATE webhookd.operations SET state = 'failed', error = :error, updated_at = now(), finished_at = now()
    WHERE id = :id AND finished_at IS NULL AND EXISTS (SELECT FROM held)
)
SELECT true FROM held;

-- name: lock_provider_account(account)^
-- Locks an account, so that two orders for it come one after the other. Returns no row if the account has no credentials.
SELECT account FROM webhookd.provider_accounts WHERE account = :account FOR UPDATE;

-- name: remove_provider_rows(account)!
-- Removes what is old of an account: days and changes after two years, notifications, pings and tests after 400 days, and all calls but the
-- last 200. Only the replica that holds the account does this.
WITH days AS (
    DELETE FROM webhookd.provider_days WHERE account = :account AND day < now() - interval '2 years'
), changes AS (
    DELETE FROM webhookd.provider_changes WHERE account = :account AND at < now() - interval '2 years'
), notifications AS (
    DELETE FROM webhookd.provider_notifications
    WHERE account = :account AND coalesce(event_date, first_at) < now() - interval '400 days'
), tests AS (
    DELETE FROM webhookd.provider_tests
    WHERE account = :account AND received_at < now() - interval '400 days' AND body IS NULL
), pings AS (
    DELETE FROM webhookd.provider_pings
    WHERE account = :account AND closes_at < now() - interval '400 days' AND decided_at IS NOT NULL
)
DELETE FROM webhookd.provider_calls
WHERE account = :account AND at < (
    SELECT at FROM webhookd.provider_calls WHERE account = :account ORDER BY at DESC OFFSET 199 LIMIT 1
);

-- name: note_our_webhooks(account, webhooks)!
-- Adds webhooks to those that are webhookd's own.
UPDATE webhookd.provider_accounts
SET our_webhooks = ARRAY(SELECT DISTINCT w FROM unnest(our_webhooks || :webhooks::text[]) AS w ORDER BY w)
WHERE account = :account;

-- name: notifications_elsewhere(lows, highs, account)
-- Returns those of the notifications that are events of another account, by their position in the arrays: after an account got another
-- name, its notifications must not be taken once more. `lows` and `highs` are the bounds of each notification's keys in all accounts.
SELECT i.position, k.account
FROM unnest(:lows::uuid[], :highs::uuid[]) WITH ORDINALITY AS i (low, high, position)
CROSS JOIN LATERAL (
    SELECT kind FROM webhookd.ledger WHERE notification_key BETWEEN i.low AND i.high OFFSET 0
) AS l
JOIN webhookd.kinds k ON k.id = l.kind
WHERE k.account <> :account;

-- name: likely_twins(account, event_type, entity_id, event_date, notification_key, limit)
-- Returns the events, with their bodies, that other notifications brought with the same type, entity and eventDate: perhaps the same event,
-- by another webhook. The history has at most three decimals of the date.
SELECT l.id, b.body
FROM webhookd.ledger l
JOIN webhookd.kinds k ON k.id = l.kind
LEFT JOIN LATERAL (SELECT body FROM webhookd.bodies WHERE event_id = l.id OFFSET 0) AS b ON true
WHERE l.entity_id = :entity_id AND k.account = :account AND k.event_type = :event_type AND l.notification_key <> :notification_key::uuid
    AND l.event_date BETWEEN :event_date::timestamptz - interval '2 milliseconds' AND :event_date::timestamptz + interval '2 milliseconds'
ORDER BY l.id
LIMIT :limit;

-- name: add_alias(notification_key, event_id, account, notification_id)!
-- Makes a notification of the history an alias of the event that a twin brought. The nil hash stands for a body that is not known: the
-- late webhook of the notification is no other body.
INSERT INTO webhookd.notification_aliases (notification_key, event_id, body_hash, account, notification_id)
VALUES (:notification_key::uuid, :event_id, '00000000-0000-0000-0000-000000000000', :account, :notification_id)
ON CONFLICT DO NOTHING;
