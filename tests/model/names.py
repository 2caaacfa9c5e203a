"""The code that implements each transition of the models. Only this module connects the models with the code.

A transition carries `/* code: <key> */`. This module gives its function, and the named queries of sql/queries/ that it runs.
"""

from __future__ import annotations

from typing import NamedTuple


class Names(NamedTuple):
    """A Python object (module:qualified.name) and named queries."""

    code: str
    sql: tuple[str, ...] = ()


STORE = "webhookd.store.event_store:EventStore"
OUTBOX = "webhookd.store.outbox:Outbox"

NAMES = {
    # The receiver
    "receive.look_up": Names("webhookd.store.idempotency:IdempotencyKeys.seen"),
    "receive.commit": Names("webhookd.store.receipts:Receipts.accept", ("insert_events",)),
    "receive.answer": Names("webhookd.receive.intake:Intake.take"),
    "receive.mark_seen": Names("webhookd.store.idempotency:IdempotencyKeys.mark_seen"),
    # The relay
    "relay.hot_send": Names("webhookd.queue.relay:Relay.offer"),
    "relay.lease": Names(f"{OUTBOX}.lease", ("lease_work",)),
    "relay.lease_lost": Names(f"{OUTBOX}.lease", ("lease_work",)),
    "relay.send": Names("webhookd.queue.bundles:send_events"),
    "relay.mark_sent": Names(f"{OUTBOX}.mark_sent", ("mark_sent",)),
    "relay.return_lease": Names(f"{OUTBOX}.return_lease", ("return_lease",)),
    "poll.begin": Names("webhookd.queue.poller:Poller._poll"),
    "poll.report": Names(f"{OUTBOX}.report_worker", ("report_worker",)),
    # The worker
    "work.receive": Names("webhookd.process.worker:Worker.work"),
    "work.revive": Names("webhookd.process.records:Records.revive", ("revive_event",)),
    "work.fold": Names("webhookd.process.fold:Folds.fold", ("read_events", "process_events")),
    "work.lock": Names(f"{STORE}.claim", ("claim_event", "claim_event_if_free")),
    "work.begin": Names(f"{STORE}.begin_attempt", ("begin_attempt",)),
    "work.begin_alone": Names("webhookd.process.turns:Turns.take", ("attempts_begun",)),
    "work.bury": Names(f"{STORE}.mark_dead", ("mark_dead",)),
    "work.run": Names("webhookd.process.attempt:Attempts.make"),
    "work.end": Names(f"{STORE}.mark_processed", ("mark_processed",)),
    "work.take_back": Names(f"{STORE}.take_back_attempt", ("take_back_attempt",)),
    "work.owe": Names("webhookd.process.attempt:Attempts._take_back"),
    "work.take_back_owed": Names("webhookd.process.attempt:Attempts.take_back_what_is_owed", ("take_back_attempt",)),
    "work.fail": Names("webhookd.process.records:Records.record", ("mark_retrying", "mark_dead", "wait_for_details")),
    "work.come_back": Names("webhookd.queue.acks:Acks.delay"),
    "work.delete": Names("webhookd.queue.acks:Acks.delete"),
    # Dead letters
    "dead_letters.put_back": Names(f"{STORE}.put_back", ("put_back",)),
    "dead_letters.remove_raw": Names("webhookd.queue.dead_letters:DeadLetters.reconcile"),
    "dead_letters.owed": Names(f"{STORE}.owed_dead_letters", ("owed_dead_letters",)),
    "dead_letters.send_copy": Names("webhookd.queue.dead_letters:DeadLetters.copy"),
    "dead_letters.mark_copy": Names(f"{STORE}.mark_dead_letter_sent", ("mark_dead_letter_sent",)),
    "dead_letters.remove_copy": Names("webhookd.queue.dead_letters:DeadLetters.reconcile"),
    "dead_letters.owe_lost": Names(f"{STORE}.owe_dead_letters", ("owe_dead_letters",)),
    # Operators; a redrive from the console runs none of our code
    "operator.redrive": Names("webhookd.operate.runner:Runner._change", ("redrive_events",)),
    "operator.discard": Names("webhookd.operate.runner:Runner._change", ("discard_events",)),
    "operator.console": Names("webhookd.queue.proof:is_proven"),
    # Lanes
    "lanes.fresh": Names("webhookd.queue.relay:Relay.sweep", ("count_in_queue", "lease_work")),
    "lanes.rest": Names("webhookd.queue.relay:Relay.sweep", ("count_in_queue", "lease_work")),
    "lanes.later": Names("webhookd.queue.relay:Relay.sweep", ("count_in_queue", "lease_work")),
    "lanes.turns": Names(f"{OUTBOX}.count_in_queue", ("count_in_queue",)),
    "lanes.resend": Names("webhookd.queue.relay:Relay.sweep", ("lease_work",)),
    "lanes.receive": Names("webhookd.queue.poller:Permits.take"),
    # Several events that share a message or a fold
    "bundles.read": Names(f"{STORE}.states", ("states_of_events",)),
    "bundles.put_back": Names(f"{STORE}.put_back", ("put_back",)),
    "bundles.fold": Names("webhookd.process.shared_folds:SharedFolds.submit", ("read_events", "process_events")),
    "bundles.fold_alone": Names("webhookd.process.fold:Folds.fold_alone", ("read_events", "process_events")),
}
