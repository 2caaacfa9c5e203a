-- name: recovery_state()^
-- Returns what `webhookd recover` shows first. `replicas` is true if a replica has a session in this database, or reported within the last
-- minute: a pooler may hide the sessions' names. The other columns are the numbers of unfinished and dead events, each counted up to
-- 100,000.
SELECT
    EXISTS (
        SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'webhookd short'
    ) OR EXISTS (SELECT FROM webhookd.processes WHERE seen_at > now() - interval '1 minute') AS replicas,
    (SELECT count(*) FROM (
        SELECT FROM webhookd.work WHERE (status IN ('received', 'queued', 'retrying')) IS TRUE LIMIT 100000
    ) AS counted) AS unfinished,
    (SELECT count(*) FROM (SELECT FROM webhookd.work WHERE status = 'dead' LIMIT 100000) AS counted) AS dead;

-- name: latest_events(before)
-- Returns the time of each account's last event that came before `before`, among the last 100,000 events.
SELECT k.account, max(l.received_at) AS received_at
FROM (SELECT kind, received_at FROM webhookd.ledger WHERE id < webhookd.first_id(:before::timestamptz) ORDER BY id DESC LIMIT 100000) AS l
JOIN webhookd.kinds AS k ON k.id = l.kind
GROUP BY k.account
ORDER BY k.account;

-- name: missing_events(ids, notification_keys)
-- Returns the positions (from 1) of the events that the ledger lacks by their id. `again` is true if the notification came again: then the
-- event has another id, and is not missing. The key of the notification is NULL if it is not known.
SELECT i.position, coalesce(again.found, alias.found, false) AS again
FROM unnest(:ids::uuid[], :notification_keys::uuid[]) WITH ORDINALITY AS i (event_id, notification_key, position)
LEFT JOIN LATERAL (SELECT true AS found FROM webhookd.ledger WHERE id = i.event_id OFFSET 0) AS same ON true
LEFT JOIN LATERAL (
    SELECT true AS found FROM webhookd.ledger WHERE notification_key = i.notification_key OFFSET 0
) AS again ON true
LEFT JOIN LATERAL (
    SELECT true AS found FROM webhookd.notification_aliases WHERE notification_key = i.notification_key OFFSET 0
) AS alias ON true
WHERE same.found IS NULL;
