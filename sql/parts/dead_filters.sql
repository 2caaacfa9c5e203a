-- The filters of dead events, except the bounds of their deaths. `found` has the end of the event `l`.
(l.kind = ANY((SELECT webhookd.kinds_of(:wanted.event_type_patterns::text[], :wanted.account::text))::bigint[])) IS NOT FALSE
AND (
    :wanted.reason::text IS NULL OR position(lower(:wanted.reason) IN lower(coalesce(found.dead_reason, ''))) > 0
    OR position(lower(:wanted.reason) IN lower(coalesce(found.last_error, ''))) > 0
)
