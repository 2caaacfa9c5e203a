-- Dead events are read in the order of their deaths, a page at a time, even if many died at one instant.
-- depends: 0014_refused
-- transaction: false

-- migrate: apply

-- The id is the second key: without it, each page would sort all that died at one instant. The release before reads these
-- indexes as it read those that they replace.
DROP INDEX CONCURRENTLY IF EXISTS events_dead_place;
CREATE INDEX CONCURRENTLY events_dead_place ON events (finished_at, id) WHERE status = 'dead';
DROP INDEX CONCURRENTLY IF EXISTS events_dead_waiting_place;
CREATE INDEX CONCURRENTLY events_dead_waiting_place ON events (finished_at, id) WHERE status = 'dead' AND discarded_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS events_dead;
DROP INDEX CONCURRENTLY IF EXISTS events_dead_waiting;

-- migrate: rollback

CREATE INDEX events_dead ON events (finished_at) WHERE status = 'dead';
CREATE INDEX events_dead_waiting ON events (finished_at) WHERE status = 'dead' AND discarded_at IS NULL;
DROP INDEX events_dead_waiting_place;
DROP INDEX events_dead_place;
