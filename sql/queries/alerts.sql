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

-- name: report_alert_replica(id, away, channels, certificate_ends, stuck)!
-- Notes the state of this replica. `certificate_ends`: seconds since 1970, 0 if the replica has no certificate. `stuck`: handlers that
-- were cancelled and have not ended.
INSERT INTO webhookd.alert_replicas (id, seen_at, away, channels, certificate_ends, stuck)
VALUES (:id::uuid, now(), :away::text[], :channels::text[], to_timestamp(nullif(:certificate_ends::float8, 0)), :stuck)
ON CONFLICT (id) DO UPDATE SET
    seen_at = now(), away = excluded.away, channels = excluded.channels, certificate_ends = excluded.certificate_ends,
    stuck = excluded.stuck;

-- name: alert_state_of_database()^
-- Returns the server's time, and the size of the database in bytes, with the tables of other programs in it. `counted`: the seconds for
-- which the replicas have counted.
SELECT
    now() AS now,
    pg_database_size(current_database()) AS bytes,
    coalesce((SELECT extract(epoch FROM now() - min(first_at)) FROM webhookd.alert_counts), 0)::float8 AS counted;

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
WHERE at <= now()
GROUP BY measure, account;

-- name: alert_rhythms()
-- Returns for each account how many seconds ago its last authentic webhook came, and how long a pause may be: half as much again as the
-- longest pause between two webhooks, without the last three days, and at least 15 minutes. The pause that goes on now teaches nothing. If
-- first and last webhook are less than a week apart, the account may pause for at least three days. Looks at all rows that
-- remove_alert_counts leaves: two weeks, and for a rare merchant more.
WITH steps AS (
    SELECT account, first_at, last_at, longest_gap, lead(first_at) OVER (PARTITION BY account ORDER BY at) AS next_at
    FROM webhookd.alert_counts
    WHERE measure = 'authentic' AND step = 3600 AND at <= now()
)
SELECT
    account,
    extract(epoch FROM now() - max(last_at))::float8 AS silence,
    greatest(
        CASE WHEN max(last_at) - min(first_at) < interval '7 days' THEN 3 * 86400 END,
        900,
        1.5 * max(longest_gap) FILTER (WHERE last_at < now() - interval '3 days'),
        1.5 * max(extract(epoch FROM least(next_at, now() - interval '3 days') - last_at)) FILTER (
            WHERE last_at < now() - interval '3 days' AND next_at IS NOT NULL
        )
    )::float8 AS bound
FROM steps
GROUP BY account;

-- name: alert_deaths(limit)
-- Returns for each account with dead events their number: of those that died within 15 minutes and six hours, and of all. Counts the last
-- `limit` deaths of all accounts. If there are more, the accounts that have an alert of dead events are in the result, too: an alert must not
-- end because others have many dead events.
WITH dead AS MATERIALIZED (
    SELECT event_id, due FROM webhookd.work WHERE status = 'dead' ORDER BY due DESC LIMIT :limit
), counted AS (
    SELECT
        k.account,
        count(*) FILTER (WHERE d.due > now() - interval '15 minutes') AS m15,
        count(*) FILTER (WHERE d.due > now() - interval '6 hours') AS h6,
        count(*) AS waiting
    FROM dead d
    JOIN webhookd.ledger l ON l.id = d.event_id
    JOIN webhookd.kinds k ON k.id = l.kind
    GROUP BY k.account
    UNION ALL
    SELECT subject, 0, 0, 0 FROM webhookd.alert_states
    WHERE condition = 'dead_events' AND (SELECT count(*) FROM dead) = :limit
)
SELECT account, sum(m15)::bigint AS m15, sum(h6)::bigint AS h6, sum(waiting)::bigint AS waiting FROM counted GROUP BY account;

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

-- name: alert_providers()
-- Returns the accounts for which a replica has asked the provider within three days, each with what is wrong: whether the credentials are
-- refused, the seconds since a comparison with the history ended (or since the credentials are what they are), the webhook's state, and of
-- the last 14 days the number of those that are over and not whole, the first one, and their missing notifications. If nobody has asked for
-- an hour, or the guardian was switched off (25 hours without a note), neither a refusal nor the webhook's state (NULL) counts any more. An
-- unknown state counts only of a webhook that was known: before, nobody has set it up. After three days, the credentials were removed on
-- purpose. The last two columns are the number of settlement days that are over for about three days and not green, and the first one.
SELECT
    a.account,
    a.credentials = 'refused' AND a.held_until > now() - interval '1 hour' AS refused,
    extract(epoch FROM now() - greatest(a.compared_at, a.credentials_since))::float8 AS uncompared,
    CASE
        WHEN a.webhook_seen_at > now() - interval '25 hours' AND a.held_until > now() - interval '1 hour'
            AND (a.webhook_state <> 'unknown' OR a.webhook_id IS NOT NULL) THEN a.webhook_state
    END AS webhook,
    d.days,
    d.oldest,
    d.missing,
    r.unreconciled,
    r.unreconciled_from
FROM webhookd.provider_accounts a
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS days, min(day) AS oldest, coalesce(sum(missing), 0)::integer AS missing
    FROM webhookd.provider_days
    WHERE account = a.account AND completeness NOT IN ('whole', 'open')
        AND day < (now() AT TIME ZONE 'UTC')::date AND day >= (now() AT TIME ZONE 'UTC')::date - 14
) d
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS unreconciled, min(day) AS unreconciled_from
    FROM webhookd.reconciled_days
    WHERE account = a.account AND result <> 'green'
        AND day < (now() AT TIME ZONE 'UTC')::date - 3 AND day >= (now() AT TIME ZONE 'UTC')::date - 14
) r
WHERE a.held_until > now() - interval '3 days'
ORDER BY a.account;

-- name: alert_replicas()
-- Returns the replicas that have reported within two minutes: the dependencies that do not answer them, the seconds until their certificate
-- ends, and the number of their stuck handlers.
SELECT away, extract(epoch FROM certificate_ends - now())::float8 AS certificate, stuck FROM webhookd.alert_replicas
WHERE seen_at > now() - interval '2 minutes';

-- name: alert_circuits()
-- Returns the destinations whose circuit is open and for which deliveries wait, with the seconds since it opened. Leaves out those to which
-- nobody sends: they are paused, or no replica's settings have them, so that the next probe is overdue. A circuit that closed within the last
-- minute may open again, and keeps its time.
SELECT c.destination, extract(epoch FROM coalesce(now() - c.opened_at, c.closed_at - c.failing_since))::float8 AS lasted
FROM webhookd.circuits c
WHERE (c.probe_at > now() - interval '10 minutes' AND c.opened_at IS NOT NULL OR c.closed_at BETWEEN now() - interval '1 minute' AND now())
    AND NOT EXISTS (SELECT FROM webhookd.paused_destinations p WHERE p.destination = c.destination)
    AND (
        EXISTS (SELECT FROM webhookd.deliveries d WHERE d.destination = c.destination AND d.status = 'waiting')
        OR EXISTS (SELECT FROM webhookd.deliveries d WHERE d.destination = c.destination AND d.status = 'retrying')
    );

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
    channels,
    extract(epoch FROM now() - since)::float8 AS lasted,
    extract(epoch FROM now() - held_at)::float8 AS ended
FROM webhookd.alert_states
ORDER BY condition, subject;

-- name: keep_alert_state(condition, subject, detail, fires, anew, channels)$
-- Notes that a condition holds. If `fires` is true, the condition fires from now on, unless it fires already. If `anew` is true, the
-- condition counts as new. Returns whether the condition begins to fire by this; `channels` then get a message.
INSERT INTO webhookd.alert_states AS s (condition, subject, detail, since, held_at, fires_since, channels)
VALUES (
    :condition, :subject, :detail, now(), now(), CASE WHEN :fires::boolean THEN now() END,
    CASE WHEN :fires::boolean THEN :channels::text[] ELSE '{}' END
)
ON CONFLICT (condition, subject) DO UPDATE SET
    detail = excluded.detail,
    held_at = now(),
    since = CASE WHEN :anew::boolean THEN now() ELSE s.since END,
    fires_since = coalesce(s.fires_since, excluded.fires_since),
    channels = CASE WHEN s.fires_since IS NULL THEN excluded.channels ELSE s.channels END
RETURNING fires_since IS NOT DISTINCT FROM now();

-- name: forget_alert_channel(condition, subject, channel)!
-- Notes that a channel gets no message about the condition.
UPDATE webhookd.alert_states SET channels = array_remove(channels, :channel)
WHERE condition = :condition AND subject = :subject;

-- name: renew_alert_states(gap)!
-- Corrects times after a pause without evaluation, and after the clock was put back. If nobody has evaluated for `gap` seconds, nobody knows
-- whether the conditions that fire have ended meanwhile: they count as if they had held until now.
WITH times AS (
    SELECT coalesce(now() - max(evaluated_at) > make_interval(secs => :gap::float8), true) AS paused
    FROM webhookd.alert_replicas WHERE evaluated_at <= now()
), late AS MATERIALIZED (
    SELECT condition, subject FROM webhookd.alert_states, times
    WHERE held_at > now() OR since > now() OR (paused AND fires_since IS NOT NULL)
    ORDER BY condition, subject FOR UPDATE OF alert_states
), messages AS (
    UPDATE webhookd.alert_messages SET changed_at = now(), due = now()
    WHERE id = ANY(ARRAY(SELECT id FROM webhookd.alert_messages WHERE changed_at > now() FOR UPDATE SKIP LOCKED))
)
UPDATE webhookd.alert_states s SET held_at = now(), since = least(s.since, now())
FROM late WHERE s.condition = late.condition AND s.subject = late.subject;

-- name: end_alert_state(condition, subject)!
DELETE FROM webhookd.alert_states WHERE condition = :condition AND subject = :subject;

-- name: add_alert_messages(ids, channels, condition, subject, change, page, detail)!
INSERT INTO webhookd.alert_messages (id, channel, condition, subject, change, page, detail)
SELECT id, channel, :condition, :subject, :change, :page::boolean, :detail
FROM unnest(:ids::uuid[], :channels::text[]) AS v (id, channel)
ORDER BY id
ON CONFLICT DO NOTHING;

-- name: withdraw_alert_messages(condition, subject)
-- Removes the messages that report that the condition fires, and that nobody has tried to send. Returns their channels, which need no
-- message about the end.
DELETE FROM webhookd.alert_messages WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.alert_messages
    WHERE condition = :condition AND subject = :subject AND change = 'fires' AND attempts = 0
    FOR UPDATE SKIP LOCKED
)) RETURNING channel;

-- name: lease_alert_messages(channels, conditions, quiet, lease)
-- Takes the oldest message of each channel that is due, about one of `conditions`: another release may have more. Nobody else takes the
-- message for `lease` seconds. A channel in `quiet` gets pages only. A message waits for earlier messages about the same condition.
WITH first AS MATERIALIZED (
    SELECT DISTINCT ON (channel) id FROM webhookd.alert_messages m
    WHERE channel = ANY(:channels::text[]) AND condition = ANY(:conditions::text[]) AND due <= now()
    AND (page OR channel <> ALL(:quiet::text[])) AND NOT EXISTS (
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
SELECT extract(epoch FROM now() - max(evaluated_at))::float8 FROM webhookd.alert_replicas WHERE evaluated_at <= now();

-- name: expire_alert_messages(age)
-- Removes messages that could not be sent for `age` seconds, and returns them.
DELETE FROM webhookd.alert_messages WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.alert_messages WHERE changed_at < now() - make_interval(secs => :age::float8) FOR UPDATE SKIP LOCKED
)) RETURNING channel, condition, subject, change;

-- name: remove_alert_counts()!
-- Removes counts that no condition looks at any more. The last 50 hours with authentic webhooks of each account stay: without them, a merchant
-- who is silent for weeks would have no rhythm, and an account that became silent no alert.
WITH ranked AS MATERIALIZED (
    SELECT ctid AS row, step, at, measure,
        row_number() OVER (PARTITION BY measure, account, step ORDER BY at DESC) AS number
    FROM webhookd.alert_counts
)
DELETE FROM webhookd.alert_counts WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM webhookd.alert_counts WHERE ctid = ANY(ARRAY(
        SELECT row FROM ranked
        WHERE at < now() - CASE WHEN step = 60 THEN interval '7 hours' ELSE interval '14 days' END
            AND (measure <> 'authentic' OR step = 60 OR number > 50)
    )) FOR UPDATE SKIP LOCKED
));

-- name: remove_alert_reports()!
-- Removes keys and replicas that no condition looks at any more.
WITH keys AS (
    DELETE FROM webhookd.alert_keys WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM webhookd.alert_keys WHERE seen_at < now() - interval '2 days' FOR UPDATE SKIP LOCKED
    ))
)
DELETE FROM webhookd.alert_replicas WHERE id = ANY(ARRAY(
    SELECT id FROM webhookd.alert_replicas WHERE seen_at < now() - interval '1 day' FOR UPDATE SKIP LOCKED
));
