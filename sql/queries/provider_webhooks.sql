-- Statements about the registration of webhooks: pings, their samples, changes, and the state that the guardian finds.
-- Every time is PostgreSQL's.

-- name: open_ping(id, account, webhook_id, others, seconds, actor)$
-- Opens a ping for `seconds`. Returns true, or NULL if another ping of the webhook is open.
INSERT INTO webhookd.provider_pings (id, account, webhook_id, others, closes_at, actor)
SELECT :id::uuid, :account, :webhook_id, :others::text[], now() + make_interval(secs => :seconds::float8), :actor
WHERE NOT EXISTS (
    SELECT FROM webhookd.provider_pings WHERE account = :account AND webhook_id = :webhook_id AND closes_at > now()
)
RETURNING true;

-- name: close_ping(id, seconds, sent)$
-- Closes a ping after `seconds`. From then on, no body is held for this ping (see keep_sample). `sent`: see the column; NULL leaves it.
UPDATE webhookd.provider_pings SET
    closes_at = least(closes_at, now() + make_interval(secs => :seconds::float8)), sent = coalesce(:sent::boolean, sent)
WHERE id = :id::uuid
RETURNING true;

-- name: open_ping_of(account, webhook_id)$
-- Returns the seconds for which a ping of the webhook is open; NULL if none is.
SELECT extract(epoch FROM max(closes_at) - now())::float8
FROM webhookd.provider_pings
WHERE account = :account AND webhook_id = :webhook_id AND closes_at > now();

-- name: recent_pings(seconds)
-- Returns the pings that are open, or that closed within `seconds`, with the ids of their samples and of what is held.
SELECT
    p.id, p.account, p.webhook_id, p.others, p.opened_at, p.closes_at > now() AS open,
    ARRAY(
        SELECT t.notification_id FROM webhookd.provider_tests t
        WHERE t.account = p.account AND t.received_at >= p.opened_at AND t.ping = p.id
        ORDER BY t.received_at DESC, t.id DESC
        LIMIT 100
    ) AS samples
FROM webhookd.provider_pings p
WHERE p.closes_at > now() - make_interval(secs => :seconds::float8);

-- name: keep_sample(id, account, notification_id, event_type, webhook_id, key_fingerprint, event_date, body, ping, sure)$
-- Holds a body, if its ping is still open. If `sure`, the body itself shows that it is a sample: only its facts are kept.
-- Returns the row's id. Returns the earlier id if the notification has a row already, and NULL if the body is an event.
-- The lock makes close_ping wait for a body that is being held. So for a ping that is closed, no body is held any more.
WITH known AS MATERIALIZED (
    SELECT id FROM webhookd.provider_tests
    WHERE account = :account AND notification_id = :notification_id AND received_at > now() - interval '1 day'
    ORDER BY received_at, id
    LIMIT 1
), open AS MATERIALIZED (
    SELECT id FROM webhookd.provider_pings WHERE id = :ping::uuid AND closes_at > clock_timestamp() FOR SHARE
), kept AS (
    INSERT INTO webhookd.provider_tests (
        id, account, notification_id, event_type, webhook_id, key_fingerprint, ping, event_date, body, decided_at
    )
    SELECT
        :id::uuid, :account, :notification_id, :event_type, :webhook_id, :key_fingerprint, (SELECT id FROM open),
        :event_date::timestamptz, CASE WHEN NOT :sure THEN :body::bytea END, CASE WHEN :sure THEN now() END
    WHERE NOT EXISTS (SELECT FROM known) AND (:sure OR EXISTS (SELECT FROM open))
    RETURNING id
)
SELECT id FROM known UNION ALL SELECT id FROM kept LIMIT 1;

-- name: sample_of_ping(ping)^
-- Returns the sample that a ping brought, or, if the ping is not decided, what is likely the sample; or no row.
-- A notification without a date, or with a date more than 14 days before the ping, comes first: the provider repeats no real notification for
-- so long.
SELECT t.notification_id, t.event_type, t.webhook_id, t.key_fingerprint
FROM webhookd.provider_tests t JOIN webhookd.provider_pings p ON p.id = t.ping AND p.account = t.account
WHERE p.id = :ping::uuid
ORDER BY
    t.body IS NOT NULL, coalesce(t.event_date > p.opened_at - interval '14 days', false), t.webhook_id IS DISTINCT FROM p.webhook_id,
    t.event_date DESC NULLS LAST, t.received_at DESC, t.id
LIMIT 1;

-- name: pings_to_decide(account)
-- Returns the pings that are over, and that are not decided or have held notifications.
SELECT id FROM webhookd.provider_pings
WHERE account = :account AND closes_at <= now() AND (
    decided_at IS NULL OR id IN (SELECT ping FROM webhookd.provider_tests WHERE account = :account AND body IS NOT NULL)
)
ORDER BY opened_at;

-- name: undecided_of_ping(ping, limit)
-- Returns held notifications of a ping that is not decided. One of them may be its sample. The order is that of sample_of_ping.
SELECT t.id, t.received_at, t.key_fingerprint, t.body
FROM webhookd.provider_tests t JOIN webhookd.provider_pings p ON p.id = t.ping AND p.account = t.account
WHERE p.id = :ping::uuid AND p.decided_at IS NULL AND t.body IS NOT NULL
ORDER BY
    coalesce(t.event_date > p.opened_at - interval '14 days', false), t.webhook_id IS DISTINCT FROM p.webhook_id,
    t.event_date DESC NULLS LAST, t.received_at DESC, t.id
LIMIT :limit;

-- name: decide_ping(id)!
-- Decides a ping that is over, once: if the provider may have sent a sample, at most one held notification is the sample. The order is
-- that of sample_of_ping. Of one without a date, or with an old one, and one with a recent date, either may be the sample and the other
-- real: then none is the sample, since it is better to process a sample than to lose an event. Close the ping first: that waits for what is
-- being held.
WITH ping AS (
    UPDATE webhookd.provider_pings SET decided_at = clock_timestamp()
    WHERE id = :id::uuid AND decided_at IS NULL AND closes_at <= clock_timestamp()
    RETURNING id, account, webhook_id, opened_at, sent
), likely AS (
    SELECT
        t.id, t.body IS NULL AS sure,
        count(*) OVER (PARTITION BY t.body IS NULL) <> count(*) FILTER (WHERE t.event_date > ping.opened_at - interval '14 days')
            OVER (PARTITION BY t.body IS NULL)
            AND bool_or(t.event_date > ping.opened_at - interval '14 days') OVER (PARTITION BY t.body IS NULL) AS unclear
    FROM webhookd.provider_tests t JOIN ping ON ping.id = t.ping AND ping.account = t.account
    WHERE ping.sent IS NOT FALSE
    ORDER BY
        t.body IS NOT NULL, coalesce(t.event_date > ping.opened_at - interval '14 days', false),
        t.webhook_id IS DISTINCT FROM ping.webhook_id, t.event_date DESC NULLS LAST, t.received_at DESC, t.id
    LIMIT 1
)
UPDATE webhookd.provider_tests SET body = NULL, decided_at = now() WHERE id = (SELECT id FROM likely WHERE NOT sure AND unclear IS NOT TRUE);

-- name: held_for_ping(ping, limit)
-- Returns held notifications of a ping that is decided: none of them is its sample.
SELECT t.id, t.received_at, t.key_fingerprint, t.body
FROM webhookd.provider_tests t JOIN webhookd.provider_pings p ON p.id = t.ping AND p.account = t.account
WHERE p.id = :ping::uuid AND p.decided_at IS NOT NULL AND t.body IS NOT NULL
ORDER BY t.received_at, t.id
LIMIT :limit;

-- name: forget_held(ids)!
-- Removes held notifications that are events, or in quarantine, now.
DELETE FROM webhookd.provider_tests WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.provider_tests WHERE id = ANY(:ids::uuid[]) AND body IS NOT NULL ORDER BY id FOR UPDATE
));

-- name: refused_since_ping(ping)^
-- Returns the newest webhook of a ping's account that was refused since the ping was opened, or no row.
SELECT r.outcome, r.likely
FROM webhookd.refused_webhooks r JOIN webhookd.provider_pings p ON p.id = :ping::uuid AND r.account IN (p.account, 'unknown')
WHERE r.refused_at >= p.opened_at
ORDER BY r.account <> 'unknown' DESC, r.refused_at DESC, r.id DESC
LIMIT 1;

-- name: end_duty(name, holder)$
-- Ends a duty, if this holder has it.
UPDATE webhookd.duties SET held_until = now() WHERE name = :name AND holder = :holder::uuid RETURNING true;

-- name: note_change(id, account, actor, change, webhook_id, detail)!
-- Keeps a change at the provider.
INSERT INTO webhookd.provider_changes (id, account, actor, change, webhook_id, detail)
VALUES (:id::uuid, :account, :actor, :change, :webhook_id, :detail);

-- name: begin_healing(id, account, actor, webhook_id, an_hour, a_day)$
-- Keeps that a webhook is to be healed, unless that was so `an_hour` times within an hour, or `a_day` pings of this actor arrived within a
-- day: an activation follows each such ping. A ping that did not arrive changes nothing at the provider. Returns true, or NULL.
INSERT INTO webhookd.provider_changes (id, account, actor, change, webhook_id)
SELECT :id::uuid, :account, :actor, 'heal', :webhook_id
WHERE (
    SELECT
        count(*) FILTER (WHERE change = 'heal' AND at > now() - interval '1 hour') < :an_hour
        AND count(*) FILTER (WHERE change = 'ping' AND actor = :actor) < :a_day
    FROM webhookd.provider_changes
    WHERE account = :account AND at > now() - interval '1 day'
)
RETURNING true;

-- name: last_switch_of_webhook(account, webhook_id)$
-- Returns the last change here that decided whether the webhook is active: create, activate or deactivate; NULL if there was none.
SELECT change
FROM webhookd.provider_changes
WHERE account = :account AND webhook_id = :webhook_id AND change IN ('create', 'activate', 'deactivate')
ORDER BY at DESC, id DESC
LIMIT 1;

-- name: webhook_of_account(account)^
-- Returns what is known of our webhook, or no row.
SELECT webhook_id, webhook_state, webhook_since, webhook_detail, webhook_seen_at, webhook_event_types
FROM webhookd.provider_accounts
WHERE account = :account;

-- name: note_webhook(account, state, webhook_id, detail, event_types, looked, seen_at)^
-- Notes what was found of our webhook. `event_types`: those that the webhook is to have; NULL leaves them. If `looked`, notes nothing if
-- somebody noted something since `seen_at`: a look that began before must not undo a change. Returns the state before, NULL if there was
-- none, and whether the state is noted.
WITH before AS MATERIALIZED (
    SELECT webhook_state FROM webhookd.provider_accounts WHERE account = :account
), noted AS (
    INSERT INTO webhookd.provider_accounts AS a (
        account, webhook_state, webhook_id, webhook_detail, webhook_event_types, webhook_seen_at
    )
    VALUES (:account, :state, :webhook_id, :detail, :event_types::text[], now())
    ON CONFLICT (account) DO UPDATE SET
        webhook_since = CASE WHEN a.webhook_state = excluded.webhook_state THEN a.webhook_since ELSE now() END,
        webhook_state = excluded.webhook_state,
        webhook_id = coalesce(excluded.webhook_id, a.webhook_id),
        webhook_detail = excluded.webhook_detail,
        webhook_event_types = coalesce(excluded.webhook_event_types, a.webhook_event_types),
        webhook_seen_at = now()
    WHERE NOT :looked::boolean OR a.webhook_seen_at IS NOT DISTINCT FROM :seen_at::timestamptz
    RETURNING true
)
SELECT (SELECT webhook_state FROM before) AS before, EXISTS (SELECT FROM noted) AS noted;
