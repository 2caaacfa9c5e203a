-- The other filters of events. They choose among the events `l` that a statement looks at. `w` has the status of an event's work, if the
-- event has work. NULL stands for any value.
(:wanted.status::text[] IS NULL OR webhookd.status_of(w.status) = ANY(:wanted.status))
AND (l.kind = ANY((SELECT webhookd.kinds_of(:wanted.event_type_patterns::text[], :wanted.account::text))::bigint[])) IS NOT FALSE
AND (:wanted.origin::text IS NULL OR l.kind = ANY((
    SELECT coalesce(array_agg(id), '{}') FROM webhookd.kinds
    WHERE CASE key_fingerprint WHEN 'history' THEN 'history' WHEN 'synthetic' THEN 'synthetic' WHEN '' THEN 'import' ELSE 'webhook' END = :wanted.origin
)::bigint[]))
AND (:wanted.received_from::timestamptz IS NULL OR l.received_at >= :wanted.received_from)
AND (:wanted.received_to::timestamptz IS NULL OR l.received_at < :wanted.received_to)
