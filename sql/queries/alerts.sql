-- name: add_alert_counts(steps, measures, accounts, counts)!
-- Adds counts to the present step of each length in `steps`.
INSERT INTO webhookd.alert_counts AS c (measure, account, step, at, count, first_at, last_at)
SELECT measure, account, step, webhookd.step(step, now()) AS at, count, now(), now()
FROM unnest(:steps::integer[]) AS step,
    unnest(:measures::text[], :accounts::text[], :counts::bigint[]) AS v (measure, account, count)
ORDER BY measure, account, step
ON CONFLICT (measure, account, step, at) DO UPDATE SET
    count = c.count + excluded.count,
    longest_gap = greatest(c.longest_gap, extract(epoch FROM excluded.first_at - c.last_at)),
    last_at = greatest(c.last_at, excluded.last_at);

-- name: report_alert_keys(accounts, keys, used)!
-- Notes the keys of this replica's settings, each with the seconds since 1970 at which it was last used, 0 if never.
INSERT INTO webhookd.alert_keys AS k (account, key, last_used_at)
SELECT account, key, to_timestamp(nullif(used, 0))
FROM unnest(:accounts::text[], :keys::text[], :used::float8[]) AS v (account, key, used)
ORDER BY account, key
ON CONFLICT (account, key) DO UPDATE SET seen_at = now(), last_used_at = greatest(k.last_used_at, excluded.last_used_at);

-- name: report_alert_replica(id, away, channels, certificate_ends)!
-- Notes the state of this replica. `certificate_ends`: seconds since 1970, 0 if the replica has no certificate.
INSERT INTO webhookd.alert_replicas (id, seen_at, away, channels, certificate_ends)
VALUES (:id::uuid, now(), :away::text[], :channels::text[], to_timestamp(nullif(:certificate_ends::float8, 0)))
ON CONFLICT (id) DO UPDATE SET
    seen_at = now(), away = excluded.away, channels = excluded.channels, certificate_ends = excluded.certificate_ends;

-- name: alert_state_of_database()^
-- Returns the server's time, and the size of the database in bytes, with the tables of other programs in it.
SELECT now() AS now, pg_database_size(current_database()) AS bytes;

-- name: alert_counts()
-- Returns for each measure and account the counts of windows that end now: 3, 15 and 30 minutes, 1 and 6 hours. `hours` is the number of
-- the last six hours in which anything was counted. `week_ago` is the count of the six hours that ended a week ago.
SELECT
    measure,
    account,
    coalesce(sum(count) FILTER (WHERE step = 60 AND at > now() - interval '3 minutes'), 0)::bigint AS m3,
    coalesce(sum(count) FILTER (WHERE step = 60 AND at > now() - interval '15 minutes'), 0)::bigint AS m15,
    coalesce(sum(count) FILTER (WHERE step = 60 AND at > now() - interval '30 minutes'), 0)::bigint AS m30,
    coalesce(sum(count) FILTER (WHERE step = 60 AND at > now() - interval '1 hour'), 0)::bigint AS h1,
    coalesce(sum(count) FILTER (WHERE step = 60 AND at > now() - interval '6 hours'), 0)::bigint AS h6,
    count(DISTINCT floor(extract(epoch FROM now() - at) / 3600)) FILTER (WHERE step = 60 AND at > now() - interval '6 hours') AS hours,
    coalesce(sum(count) FILTER (
        WHERE step = 3600 AND at > now() - interval '7 days 6 hours' AND at <= now() - interval '7 days'
    ), 0)::bigint AS week_ago
FROM webhookd.alert_counts
GROUP BY measure, account;

-- name: alert_rhythms()
-- Returns for each account how many seconds ago its last authentic webhook came, and how long a pause may be: half as much again as the
-- longest pause of the last two weeks, without the last three days, and at least 15 minutes. An account with less than a week of data may
-- pause for three days.
WITH steps AS (
    SELECT account, first_at, last_at, longest_gap, coalesce(lead(first_at) OVER (PARTITION BY account ORDER BY at), now()) AS next_at
    FROM webhookd.alert_counts
    WHERE measure = 'authentic' AND step = 3600
)
SELECT
    account,
    extract(epoch FROM now() - max(last_at))::float8 AS silence,
    CASE WHEN min(first_at) <= now() - interval '7 days' THEN 1.5 * greatest(
        600,
        max(longest_gap) FILTER (WHERE last_at BETWEEN now() - interval '14 days' AND now() - interval '3 days'),
        max(extract(epoch FROM least(next_at, now() - interval '3 days') - last_at)) FILTER (
            WHERE last_at < now() - interval '3 days' AND next_at > now() - interval '14 days'
        )
    )::float8 ELSE 3 * 86400 END AS bound
FROM steps
GROUP BY account;

-- name: alert_deaths(limit)
-- Returns for each account the number of events that died within 15 minutes, an hour and six hours, and still are dead. Counts the last
-- `limit` deaths.
SELECT
    k.account,
    count(*) FILTER (WHERE w.due > now() - interval '15 minutes') AS m15,
    count(*) FILTER (WHERE w.due > now() - interval '1 hour') AS h1,
    count(*) AS h6
FROM (
    SELECT event_id, due FROM webhookd.work
    WHERE status = 'dead' AND due > now() - interval '6 hours'
    ORDER BY due DESC LIMIT :limit
) AS w
JOIN webhookd.ledger l ON l.id = w.event_id
JOIN webhookd.kinds k ON k.id = l.kind
GROUP BY k.account;

-- name: alert_keys()
-- Returns the keys of the settings, with the seconds since each was first seen and last used (NULL if never). Leaves out keys that the
-- receivers' settings no longer have.
SELECT
    account,
    key,
    extract(epoch FROM now() - first_seen_at)::float8 AS known,
    extract(epoch FROM now() - last_used_at)::float8 AS unused
FROM webhookd.alert_keys
WHERE seen_at > (SELECT max(seen_at) FROM webhookd.alert_keys) - interval '15 minutes';

-- name: alert_replicas()
-- Returns the replicas that have reported within two minutes: the dependencies that do not answer them, and the seconds until their
-- certificate ends.
SELECT away, extract(epoch FROM certificate_ends - now())::float8 AS certificate FROM webhookd.alert_replicas
WHERE seen_at > now() - interval '2 minutes';

-- name: alert_channels()$
-- Returns the names of all channels that a replica has had within a day. A replica that restarts must miss no message.
SELECT coalesce(array_agg(DISTINCT channel ORDER BY channel), '{}')
FROM webhookd.alert_replicas, unnest(channels) AS channel
WHERE seen_at > now() - interval '1 day';

-- name: alert_states()
-- Returns all states, with their ages in seconds.
SELECT
    condition,
    subject,
    detail,
    fires_since,
    extract(epoch FROM now() - since)::float8 AS lasted,
    extract(epoch FROM now() - held_at)::float8 AS ended
FROM webhookd.alert_states
ORDER BY condition, subject;

-- name: keep_alert_state(condition, subject, detail, fires, anew)!
-- Notes that a condition holds. If `fires` is true, the condition fires from now on, unless it fires already. If `anew` is true, the
-- condition counts as new.
INSERT INTO webhookd.alert_states AS s (condition, subject, detail, since, held_at, fires_since)
VALUES (:condition, :subject, :detail, now(), now(), CASE WHEN :fires::boolean THEN now() END)
ON CONFLICT (condition, subject) DO UPDATE SET
    detail = excluded.detail,
    held_at = now(),
    since = CASE WHEN :anew::boolean THEN now() ELSE s.since END,
    fires_since = coalesce(s.fires_since, excluded.fires_since);

-- name: end_alert_state(condition, subject)!
DELETE FROM webhookd.alert_states WHERE condition = :condition AND subject = :subject;

-- name: adopt_alert(condition, subject, detail)!
-- Notes that a message about the condition was sent while PostgreSQL was away: the condition fires, and no message is due.
INSERT INTO webhookd.alert_states (condition, subject, detail, since, held_at, fires_since)
VALUES (:condition, :subject, :detail, now(), now(), now())
ON CONFLICT DO NOTHING;

-- name: add_alert_messages(ids, channels, condition, subject, change, page, detail)!
INSERT INTO webhookd.alert_messages (id, channel, condition, subject, change, page, detail)
SELECT id, channel, :condition, :subject, :change, :page::boolean, :detail
FROM unnest(:ids::uuid[], :channels::text[]) AS v (id, channel);

-- name: withdraw_alert_messages(condition, subject)
-- Removes the messages that report that the condition fires, and that nobody has tried to send. Returns their channels, which need no
-- message about the end.
DELETE FROM webhookd.alert_messages WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.alert_messages
    WHERE condition = :condition AND subject = :subject AND change = 'fires' AND attempts = 0
    FOR UPDATE SKIP LOCKED
)) RETURNING channel;

-- name: lease_alert_messages(channels, quiet, lease)
-- Takes the oldest message of each channel that is due. Nobody else takes it for `lease` seconds. A channel in `quiet` gets pages only.
-- A message waits for earlier messages about the same condition.
WITH first AS MATERIALIZED (
    SELECT DISTINCT ON (channel) id FROM webhookd.alert_messages m
    WHERE channel = ANY(:channels::text[]) AND due <= now() AND (page OR channel <> ALL(:quiet::text[])) AND NOT EXISTS (
        SELECT FROM webhookd.alert_messages b
        WHERE b.channel = m.channel AND b.condition = m.condition AND b.subject = m.subject AND (b.changed_at, b.id) < (m.changed_at, m.id)
    )
    ORDER BY channel, changed_at, id
), free AS (
    SELECT id FROM webhookd.alert_messages
    WHERE id = ANY(ARRAY(SELECT id FROM first)) AND due <= now()
    FOR UPDATE SKIP LOCKED
)
UPDATE webhookd.alert_messages m SET due = now() + make_interval(secs => :lease::float8), attempts = attempts + 1
FROM free WHERE m.id = free.id
RETURNING m.id, m.channel, m.condition, m.subject, m.change, m.detail, m.changed_at, m.attempts;

-- name: alert_message_sent(id)!
DELETE FROM webhookd.alert_messages WHERE id = :id::uuid;

-- name: delay_alert_message(id, delay)!
UPDATE webhookd.alert_messages SET due = now() + make_interval(secs => :delay::float8) WHERE id = :id::uuid;

-- name: waiting_alert_messages()
SELECT channel, count(*) AS waiting FROM webhookd.alert_messages GROUP BY channel;

-- name: note_alert_evaluation(id)!
INSERT INTO webhookd.alert_replicas (id, seen_at, away, channels, evaluated_at) VALUES (:id::uuid, now(), '{}', '{}', now())
ON CONFLICT (id) DO UPDATE SET evaluated_at = now();

-- name: last_alert_evaluation()$
-- Returns the seconds since a replica last evaluated the conditions; NULL if none did within a day.
SELECT extract(epoch FROM now() - max(evaluated_at))::float8 FROM webhookd.alert_replicas;

-- name: expire_alert_messages(age)
-- Removes messages that could not be sent for `age` seconds. Returns their channels.
DELETE FROM webhookd.alert_messages WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.alert_messages WHERE changed_at < now() - make_interval(secs => :age::float8) FOR UPDATE SKIP LOCKED
)) RETURNING channel;

-- name: remove_alert_reports()!
-- Removes counts, keys and replicas that no condition looks at any more.
WITH counts AS (
    DELETE FROM webhookd.alert_counts WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM webhookd.alert_counts
        WHERE at < now() - CASE WHEN step = 60 THEN interval '7 hours' ELSE interval '16 days' END
        FOR UPDATE SKIP LOCKED
    ))
), keys AS (
    DELETE FROM webhookd.alert_keys WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM webhookd.alert_keys WHERE seen_at < now() - interval '2 days' FOR UPDATE SKIP LOCKED
    ))
)
DELETE FROM webhookd.alert_replicas WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.alert_replicas WHERE seen_at < now() - interval '1 day' FOR UPDATE SKIP LOCKED
));
