-- Events are found by what a person knows of them: the provider's id, the invoice number, the merchant's reference.
-- depends: 0008_operator
-- transaction: false

-- migrate: apply

-- Concurrently: webhooks are received all the while. What an attempt left behind that broke off is invalid, and made anew.
DROP INDEX CONCURRENTLY IF EXISTS events_entity;
CREATE INDEX CONCURRENTLY events_entity ON events (entity_id, id) WHERE entity_id IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS events_invoice;
CREATE INDEX CONCURRENTLY events_invoice ON events (invoice_number, id) WHERE invoice_number IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS events_reference;
CREATE INDEX CONCURRENTLY events_reference ON events (merchant_reference, id) WHERE merchant_reference IS NOT NULL;
-- The dead that wait for somebody, apart from those let go: they are counted at each look at the statistics, from this index alone
-- (through events_dead, a random page of the table for each), and are listed however many were let go. No living event is in it.
DROP INDEX CONCURRENTLY IF EXISTS events_dead_waiting;
CREATE INDEX CONCURRENTLY events_dead_waiting ON events (finished_at) WHERE status = 'dead' AND discarded_at IS NULL;

-- migrate: rollback

DROP INDEX events_dead_waiting;
DROP INDEX events_reference;
DROP INDEX events_invoice;
DROP INDEX events_entity;
