"""The code that implements each transition of the models: the one place where the models and the code meet.

A transition carries `/* code: <key> */`. Here are its function, and the named queries of sql/queries/ that it runs.
A name with `?` is not yet written: the code will probably be called so.
"""

from __future__ import annotations

from typing import NamedTuple


class Names(NamedTuple):
    """A Python object (module:qualified.name) and named queries; each with a `?` before it while it is to be filled in."""

    code: str
    sql: tuple[str, ...] = ()


NAMES = {
    # The receiver
    "receive.look_up": Names("webhookd.store.claims:Claims.seen"),
    "receive.commit": Names("webhookd.store.receipts:Receipts.accept", ("insert_events",)),
    "receive.answer": Names("webhookd.receive.intake:Intake.take"),
    "receive.mark_seen": Names("webhookd.store.claims:Claims.mark_seen"),
    # The relay
    "relay.hot_send": Names("webhookd.queue.relay:Relay.offer"),
    "relay.lease": Names("?webhookd.store.work:Work.lease_due", ("?lease_due_work",)),
    "relay.lease_lost": Names("?webhookd.store.work:Work.lease_lost", ("?lease_lost_work",)),
    "relay.send": Names("webhookd.queue.relay:Relay.sweep"),
    "relay.mark_sent": Names("?webhookd.store.work:Work.mark_sent", ("?mark_work_sent",)),
    "poll.publish_mark": Names("?webhookd.store.work:Work.publish_drained", ("?publish_drained",)),
    # The worker
    "work.receive": Names("?webhookd.queue.poller:Poller.receive"),
    "work.revive": Names("?webhookd.store.work:Work.revive", ("?revive_work",)),
    "work.fold": Names("?webhookd.process.shared:SharedTransactions.fold", ("?fold_and_end_work",)),
    "work.begin": Names("?webhookd.store.work:Work.begin_suspect", ("?begin_suspect_work",)),
    "work.begin_alone": Names("?webhookd.process.suspects:Suspects.attempt"),
    "work.bury": Names("?webhookd.store.work:Work.bury", ("?bury_work",)),
    "work.lock": Names("?webhookd.store.work:Work.claim", ("?claim_work",)),
    "work.run": Names("?webhookd.process.attempt:attempt"),
    "work.end": Names("?webhookd.store.work:Work.end", ("?end_work",)),
    "work.fail": Names("?webhookd.store.work:Work.fail", ("?fail_work",)),
    "work.take_back": Names("?webhookd.store.work:Work.take_back", ("?take_back_work",)),
    "work.delete": Names("webhookd.queue.acks:Acks.delete"),
    # Dead letters
    "dead_letters.put_back": Names("?webhookd.store.work:Work.put_back", ("?put_back_work",)),
    "dead_letters.remove_raw": Names("webhookd.queue.dead_letters:DeadLetters.agree"),
    "dead_letters.owed": Names("?webhookd.store.work:Work.owed_copies", ("?owed_copies",)),
    "dead_letters.send_copy": Names("webhookd.queue.dead_letters:DeadLetters.copy"),
    "dead_letters.mark_copy": Names("?webhookd.store.work:Work.mark_copy_sent", ("?mark_copy_sent",)),
    "dead_letters.remove_copy": Names("webhookd.queue.dead_letters:DeadLetters.agree"),
    "dead_letters.owe_lost": Names("?webhookd.store.work:Work.owe_copies", ("?owe_copies",)),
    # Operators; a redrive from the console runs none of our code
    "operator.redrive": Names("?webhookd.operate.dead_letters:redrive", ("?redrive_work",)),
    "operator.discard": Names("?webhookd.operate.dead_letters:discard", ("?discard_work",)),
    "operator.console": Names("webhookd.queue.proof:is_proven"),
    # Lanes
    "lanes.fresh": Names("?webhookd.store.work:Work.lease_fresh", ("?lease_fresh_work",)),
    "lanes.rest": Names("?webhookd.store.work:Work.lease_due", ("?lease_due_work",)),
    "lanes.resend": Names("?webhookd.store.work:Work.lease_lost", ("?lease_lost_work",)),
    "lanes.receive": Names("?webhookd.queue.poller:Poller.receive"),
}
