-- Vacuum the events after a tenth of them has changed, rather than a fiftieth.
-- depends: 0006_outbox

-- migrate: apply

-- Each vacuum reads every index, and writes most pages of that of the notification ids to the WAL: about 50 us of PostgreSQL for
-- each event where it comes after a fiftieth. What waits is found in a millisecond past half a million ended events all the same.
ALTER TABLE events SET (autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);

-- migrate: rollback

ALTER TABLE events SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
