"""The guards of the promises: each one is taken out of a copy of the code, and the test that is named for it must then fail.

`python -m tests.faults.guards [word …]` tries the guards whose name contains a word, or all; exit code 1 if a test passed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parent.parent.parent
README = Path(__file__).with_name("README.md")

out = Console()


@dataclass(slots=True, frozen=True)
class Guard:
    """`before` in `file` is replaced by `after`; `test` (path::name) must fail then."""

    name: str
    file: str
    before: str
    after: str
    test: str


_RECEIVE = "tests/integration/test_receive.py::"
_FORGERY = "tests/integration/test_forgery.py::"
_LIMITS = "tests/integration/test_queue_limits.py::"
_BUNDLES = "tests/integration/test_bundles.py::"
_WORK = "tests/integration/test_work.py::"
_DEAD_LETTERS = "tests/integration/test_dead_letter_queue.py::"
_DELIVERY = "tests/faults/test_delivery.py::"
_DATABASE = "tests/integration/test_database.py::"
_RECOVERY = "tests/faults/test_recovery.py::"
_CLUSTER = "tests/integration/test_redis_cluster.py::"
_ORDER = "tests/faults/test_order.py::"
_RETENTION = "tests/integration/test_retention.py::"
_OPERATOR = "tests/integration/test_dead_letters.py::"
_OPERATIONS = "tests/integration/test_operations.py::"
_RETRY = "tests/integration/test_retry.py::"
_QUARANTINE = "tests/integration/test_quarantine.py::"
_STATISTICS = "tests/integration/test_statistics.py::"
_REQUESTS = "tests/integration/test_requests.py::"
_CONNECTIONS = "tests/integration/test_connections.py::"
_ATTACKS = "tests/integration/test_attacks.py::"
_BOUNDS = "tests/integration/test_admin_bounds.py::"
_HOSTS = "tests/integration/test_admin_hosts.py::"
_SESSIONS = "tests/integration/test_sessions.py::"
_CLIENT = "tests/integration/test_client.py::"
_CLI = "tests/integration/test_cli.py::"
_TESTING = "tests/integration/test_testing.py::"
_RELOAD = "tests/integration/test_reload.py::"
_DESTINATIONS = "tests/integration/test_destinations.py::"
_BROKEN = "tests/integration/test_destination_faults.py::"
_CLOUD = "tests/integration/test_cloud_destinations.py::"
_LISTEN = "tests/integration/test_listen.py::"
_REPLAYS = "tests/integration/test_destination_replay.py::"
_REPLAY_BOUNDS = "tests/integration/test_replay_bounds.py::"
_PLANS = "tests/integration/test_delivery_plans.py::"
_CIRCUITS = "tests/integration/test_circuits.py::"
_TARGET = "tests/unit/test_client_target.py::"
_SETTINGS = "tests/unit/test_settings.py::"
_PROVIDER = "tests/contract/test_provider.py::"
_PROVIDER_CALLS = "tests/unit/test_provider_calls.py::"
_GAPS = "tests/unit/test_gaps.py::"
_PROVIDER_SETTINGS = "tests/unit/test_provider_settings.py::"
_TIMELINE = "tests/unit/test_timeline.py::"
_FOLD = "tests/integration/test_fold.py::"
_IMPORT = "tests/integration/test_import.py::"
_KINDS = "tests/integration/test_kinds.py::"

GUARDS = (
    Guard(
        "no day is called whole if the provider's list is not settled, or lacks what came",
        "webhookd/authorizenet/gaps.py",
        "elif not settled or unlisted:",
        "elif False:",
        _GAPS + "test_no_day_is_whole_if_the_list_lacks_what_came",
    ),
    Guard(
        "a delivery that fails is retried on the provider's schedule, and then the simulated webhook is inactive",
        "webhookd/simulate/delivery.py",
        'notification.status, webhook.status = "Failed", "inactive"',
        'notification.status = "Failed"',
        _PROVIDER + "test_a_failed_delivery_is_retried_on_the_schedule_and_then_the_webhook_is_inactive",
    ),
    Guard(
        "no call of the provider that is not on the list is made, so that no mistake moves money",
        "webhookd/authorizenet/api/operations.py",
        "report = REPORTS.get(name)",
        "report = REPORTS.get(name, Report(Feature.ACCOUNT))",
        _PROVIDER_CALLS + "test_no_call_that_moves_money_or_changes_a_customer_is_made",
    ),
    Guard(
        "an id in a path of the provider's API leads to no other path",
        "webhookd/authorizenet/api/operations.py",
        "(identifier is not None and not _ID.fullmatch(identifier))",
        "False",
        _PROVIDER_CALLS + "test_an_id_leads_to_no_other_path",
    ),
    Guard(
        "credentials that the provider refuses stop the account's calls",
        "webhookd/authorizenet/api/limits.py",
        "if credentials and (stop := self._refused) is not None and now < stop.until:",
        "if credentials and (stop := self._refused) is not None and now < stop.since:",
        _PROVIDER + "test_credentials_that_are_refused_stop_the_accounts_calls",
    ),
    Guard(
        "refused credentials stop the calls that wait for their turn, too",
        "webhookd/authorizenet/api/caller.py",
        "self._gate.begin(call.feature, credentials=call.credentials)",
        "pass",
        _PROVIDER + "test_calls_that_wait_for_their_turn_are_stopped_too",
    ),
    Guard(
        "a provider's text that quotes a Transaction Key is masked",
        "webhookd/authorizenet/api/caller.py",
        'text=self._secrets.sub("***", found.text)',
        "text=found.text",
        _PROVIDER + "test_no_secret_is_in_an_error_a_log_or_a_repr",
    ),
    Guard(
        "a webhook whose answer is lost is not registered twice",
        "webhookd/authorizenet/api/caller.py",
        "(error.sent and not call.repeatable)",
        "False",
        _PROVIDER + "test_a_webhook_is_not_created_twice_if_the_answer_is_lost",
    ),
    Guard(
        "the next page of the history begins after the rows that came, not after those that were asked for",
        "webhookd/authorizenet/api/history.py",
        "offset += len(rows)",
        "offset += LIMIT",
        _PROVIDER + "test_the_history_is_whole_whatever_the_page_size_the_order_and_the_zone",
    ),
    Guard(
        "pages of a report are asked for by their number",
        "webhookd/authorizenet/api/client.py",
        'paging = {"limit": _ROWS, "offset": number}',
        'paging = {"limit": _ROWS, "offset": (number - 1) * _ROWS + 1}',
        _PROVIDER + "test_all_pages_of_a_report_are_read_by_their_number",
    ),
    Guard(
        "a list of the history that moves is read again",
        "webhookd/authorizenet/api/history.py",
        "if whole and (pages == 1 or len(found) == before):",
        "if whole:",
        _PROVIDER_CALLS + "test_a_history_that_never_rests_is_not_called_settled",
    ),
    Guard(
        "a Transaction Key of the user's goes to no address that a folder names",
        "webhookd/settings/loading.py",
        "problems += _stray_transaction_keys(given)",
        "problems += []",
        _PROVIDER_SETTINGS + "test_a_users_transaction_key_goes_to_no_address_that_a_folder_names",
    ),
    Guard(
        "an alert that fires is one message, however often it is evaluated",
        "sql/queries/alerts.sql",
        "RETURNING fires_since IS NOT DISTINCT FROM now();",
        "RETURNING fires_since IS NOT NULL;",
        "tests/integration/test_alerts.py::test_a_condition_that_fires_and_ends_is_two_messages_however_often_it_is_evaluated",
    ),
    Guard(
        "two replicas do not send one message about an alert",
        "webhookd/alerts/sender.py",
        "lease=_LEASE,",
        "lease=0.0,",
        "tests/integration/test_alerts.py::test_two_replicas_send_one_message",
    ),
    Guard(
        "a message about an alert that fails is sent again",
        "webhookd/alerts/sender.py",
        "if problem is None or problem.taken:",
        "if True:",
        "tests/integration/test_alerts.py::test_a_message_that_fails_is_sent_again_under_its_id",
    ),
    Guard(
        "a failure of a channel for alerts shows its kind, and not its address",
        "webhookd/alerts/channel.py",
        "except (aiohttp.ClientError, OSError, ValueError) as error:  # their texts may quote the URL",
        "except ZeroDivisionError as error:",
        "tests/integration/test_alerts.py::test_a_channel_that_cannot_be_reached_is_an_error_without_its_address",
    ),
    Guard(
        "a channel for alerts that hangs does not keep the daemon from stopping",
        "webhookd/alerts/alerts.py",
        "async with asyncio.timeout(_STOPPING):",
        "async with asyncio.timeout(None):",
        "tests/integration/test_alerts.py::test_a_channel_that_hangs_blocks_no_event_and_no_stop",
    ),
    Guard(
        "the message about an alert's end follows the message about its beginning",
        "sql/queries/alerts.sql",
        "AND (b.changed_at, b.id) < (m.changed_at, m.id)",
        "AND false",
        "tests/integration/test_alerts.py::test_the_end_follows_the_beginning_however_the_sending_goes",
    ),
    Guard(
        "an alert of dead events stands until somebody acts",
        "sql/queries/alerts.sql",
        "WHERE status = 'dead' ORDER BY due DESC LIMIT :limit",
        "WHERE status = 'dead' AND due > now() - interval '1 hour' ORDER BY due DESC LIMIT :limit",
        "tests/integration/test_alerts.py::test_a_dead_event_of_the_night_is_reported_in_the_morning",
    ),
    Guard(
        "no alert ends because nobody evaluated the conditions",
        "sql/queries/alerts.sql",
        "OR (paused AND fires_since IS NOT NULL)",
        "",
        "tests/integration/test_alerts.py::test_no_alert_ends_because_nobody_evaluated",
    ),
    Guard(
        "an alert of an account's silence does not end by itself",
        "sql/queries/alerts.sql",
        "AND (measure <> 'authentic' OR step = 60 OR number > 50)",
        "",
        "tests/integration/test_alerts.py::test_an_alarm_does_not_end_while_the_account_is_silent",
    ),
    Guard(
        "a channel that was away together with PostgreSQL gets its alert afterwards",
        "webhookd/alerts/outage.py",
        "if self._informed or self._due:",
        "if self._informed:",
        "tests/integration/test_alerts.py::test_a_channel_that_was_away_with_postgresql_gets_its_messages_afterwards",
    ),
    Guard(
        "a replica that restarts while PostgreSQL is away sends no second alert",
        "webhookd/alerts/outage.py",
        "await self._redis.keep_mark(self._place, _sent(channel.name), FIRES, _MARK)",
        "pass",
        "tests/integration/test_alerts.py::test_a_replica_that_restarts_during_an_outage_sends_nothing_again",
    ),
    Guard(
        "a flood of refused webhooks is sampled at a limited rate",
        "webhookd/receive/refused_samples.py",
        "self._peers.get(source, 0) >= _PEER_PACE:",
        "self._peers.get(source, 0) >= 1_000_000:",
        "tests/integration/test_refused.py::test_a_flood_of_one_reason_is_sampled_at_a_pace_and_others_still_are",
    ),
    Guard(
        "a flood of refused webhooks removes its own samples first",
        "sql/queries/refused.sql",
        "PARTITION BY account, outcome ORDER BY turn, refused_at DESC, id) AS place",
        "PARTITION BY account, outcome ORDER BY refused_at DESC, id) AS place",
        "tests/integration/test_refused.py::test_a_flood_removes_its_own_samples_first",
    ),
    Guard(
        "card numbers are masked in samples of refused webhooks",
        "webhookd/receive/redact.py",
        "    begin = _CARD.sub(",
        "    _CARD.sub(",
        "tests/integration/test_refused.py::test_what_strangers_write_is_stored_cut_escaped_and_masked",
    ),
    Guard(
        "Redis is marked only after the commit",
        "webhookd/receive/intake.py",
        "                waiting = self._commits.submit(",
        "                seen = Seen(new_id(), hash_of_body(body))\n"
        "                self._idempotency.mark_seen([(account, notification.notification_id, seen)])\n"
        "                waiting = self._commits.submit(",
        _ORDER + "test_killed_before_the_commit_the_providers_retry_is_no_duplicate",
    ),
    Guard(
        "200 only after the commit",
        "webhookd/receive/intake.py",
        "                waiting = self._commits.submit(",
        "                waiting: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()\n"
        "                waiting.set_result(Accepted(new_id()))\n"
        "                self._commits.post(",
        _ORDER + "test_killed_before_the_commit_nothing_was_answered_200",
    ),
    Guard(
        "a message is deleted only after its event is committed",
        "webhookd/process/worker.py",
        "            result = await self._alone.work(message, reference, left)\n",
        "            self._acks.delete(message)\n            result = await self._alone.work(message, reference, left)\n",
        _ORDER + "test_killed_before_the_workers_commit_the_message_comes_back",
    ),
    Guard(
        "a handler that failed leaves no effects",
        "webhookd/process/attempt.py",
        "await shielded(roll_back(transaction), _BOOKKEEPING)",
        "await shielded(transaction.commit(), _BOOKKEEPING)",
        _WORK + "test_what_the_second_handler_raises_undoes_the_firsts_effect",
    ),
    Guard(
        "an event's effects and its status commit in one transaction",
        "sql/queries/events.sql",
        "AND pg_current_xact_id()::text = :transaction\n    RETURNING event_id, status, attempts + 1",
        "AND :transaction::text <> ''\n    RETURNING event_id, status, attempts + 1",
        _WORK + "test_a_handler_that_begins_a_transaction_of_its_own_is_not_processed_without_effects",
    ),
    Guard(
        "a handler that committed the transaction itself is not tried again",
        "webhookd/process/attempt.py",
        "            elif not connection.is_in_transaction():\n                failure = Failure.of(TransactionEndedError())\n",
        "",
        _WORK + "test_a_handler_that_commits_and_then_fails_is_not_tried_again",
    ),
    Guard(
        "connections to a server that is a replica now are closed",
        "webhookd/store/pools.py",
        "            await pool.expire_connections()\n",
        "            pass\n",
        _DATABASE + "test_connections_that_lead_to_a_replica_now_are_given_up",
    ),
    Guard(
        "marks in Redis from before a restore or a promotion of PostgreSQL do not count",
        "sql/queries/database.sql",
        "        extract(epoch FROM pg_postmaster_start_time()),\n",
        "",
        "tests/faults/test_restore.py::test_what_a_restored_backup_lacks_is_accepted_when_it_is_sent_again",
    ),
    Guard(
        "operators' queries use an index through a pooler, too",
        "webhookd/store/database.py",
        "connection.transaction() if self._pooled else contextlib.nullcontext()",
        "contextlib.nullcontext()",
        "tests/integration/test_pgbouncer.py::test_operators_statements_that_need_their_settings_have_them",
    ),
    Guard(
        "a body is not removed while an operator has its event run again",
        "webhookd/store/retention.py",
        "                await queries.lock_ends(connection)\n                row = await queries.trim_partition",
        "                row = await queries.trim_partition",
        "tests/integration/test_retention.py::test_an_event_that_is_forced_to_run_again_at_that_moment_keeps_its_body",
    ),
    Guard(
        "a stop does not wait for retention's statements",
        "webhookd/store/retention.py",
        "            statement.cancel()\n",
        "            pass\n",
        "tests/integration/test_retention.py::test_a_stop_cancels_a_statement_that_waits",
    ),
    Guard(
        "`webhookd recover` lists the events that Redis remembers and PostgreSQL lacks",
        "webhookd/doctor/recovery.py",
        "                evidence.add(one.event_id, one.account, notification_id=one.notification_id)\n",
        "                pass\n",
        _RECOVERY + "test_a_failover_that_loses_commits_is_found",
    ),
    Guard(
        "`webhookd recover` finds the keys that Redis wrongly believes",
        "webhookd/doctor/recovery.py",
        "            believed = [one.key for one in lacking if one.instance == present]\n",
        "            believed = []\n",
        _RECOVERY + "test_keys_that_redis_wrongly_believes_are_found_and_removed",
    ),
    Guard(
        "Redis knows an installation from before a recovery",
        "sql/queries/database.sql",
        "(left((SELECT id FROM webhookd.instance)::text, 8) ||",
        "(left(md5(extract(epoch FROM pg_postmaster_start_time())::text), 8) ||",
        _RECOVERY + "test_a_failover_that_loses_commits_is_found",
    ),
    Guard(
        "`webhookd recover` makes each message that it read visible again",
        "webhookd/doctor/recovery.py",
        "        if kept:\n",
        "        if False:\n",
        _RECOVERY + "test_after_a_recovery_to_a_point_in_time_the_missing_events_are_listed_until_they_are_sent_again",
    ),
    Guard(
        "all keys of an installation are in one slot of Redis",
        "webhookd/store/redis_keys.py",
        "webhookd:{{{instance}}}:",
        "webhookd:{instance}:",
        _CLUSTER + "test_every_operation_works_in_cluster_mode[there]",
    ),
    Guard(
        "a redirection of Redis in cluster mode is followed",
        "webhookd/store/redis_node.py",
        "        if refused and await self._follow(replies[refused[-1]]):\n",
        "        if False:\n",
        _CLUSTER + "test_every_operation_works_in_cluster_mode[here]",
    ),
    Guard(
        "Redis that refuses a command counts as away",
        "webhookd/store/idempotency.py",
        "            await self._away(node, refused)\n        return",
        "            pass\n        return",
        _CLUSTER + "test_a_command_that_redis_refuses_makes_it_count_as_away[eval]",
    ),
    Guard(
        "a dead-letter copy that SQS delivers twice counts as one copy",
        "webhookd/queue/dead_letters.py",
        "copies.setdefault(reference.event_id, message.id) != message.id",
        "copies.setdefault(reference.event_id, message.handle) != message.handle",
        _DEAD_LETTERS + "test_a_message_that_a_pass_sees_twice_is_not_taken_for_a_second_copy",
    ),
    Guard(
        "dead-letter copies that SQS lost are made again",
        "webhookd/queue/dead_letters.py",
        "mended |= await self._owe(list(seen.copies), time.monotonic() + _PASS_SECONDS)",
        "pass",
        _DEAD_LETTERS + "test_copies_that_the_queue_lost_are_made_again",
    ),
    Guard(
        "a redrive message undoes one death of an event, and no later death",
        "sql/queries/dead_letters.sql",
        "        AND (extract(epoch FROM due) * 1000000)::bigint = :died\n",
        "        AND :died::bigint IS NOT NULL\n",
        _DEAD_LETTERS + "test_one_redrive_message_wakes_its_event_once",
    ),
    Guard(
        "one process at a time reads the dead-letter queue",
        "webhookd/queue/dead_letters.py",
        "if not await self._store.take_duty(_DUTY, 2 * _ROUND_EVERY_SECONDS + 2 * _PASS_SECONDS):",
        "if False:",
        _DEAD_LETTERS + "test_one_process_at_a_time_reads_the_dead_letter_queue",
    ),
    Guard(
        "entry ids in a batch are positions, since a batch can contain a message twice",
        "webhookd/sqs/queue.py",
        'entries = [{"Id": str(n), **entry} for n, entry in enumerate(fields[part])]',
        'entries = [{"Id": str(hash(entry["ReceiptHandle"])), **entry} for entry in fields[part]]',
        "tests/contract/test_queue.py::test_deleting_twice_in_one_call_does_no_harm[strict]",
    ),
    Guard(
        "no heartbeat is sent after a message was given back",
        "webhookd/queue/leases.py",
        "            await asyncio.wait([extension])\n",
        "            pass\n",
        _DELIVERY + "test_a_heartbeat_under_way_does_not_hide_what_a_stop_gives_back",
    ),
    Guard(
        "an event that has ended is not attempted again",
        "webhookd/process/result.py",
        "    if claimed.status.finished:\n        return Outcome.DUPLICATE\n",
        "",
        _WORK + "test_a_second_delivery_has_no_second_effect",
    ),
    Guard(
        "the row lock lets one worker at a time have an event",
        "sql/queries/events.sql",
        "WHERE event_id = :id AND consumer = 'handlers' FOR UPDATE\n",
        "WHERE event_id = :id AND consumer = 'handlers'\n",
        _WORK + "test_two_workers_on_one_event_make_one_effect_by_the_row_lock_alone",
    ),
    Guard(
        "a message that a worker holds stays invisible",
        "webhookd/queue/leases.py",
        "        self._held[message] = message.received + self._timeout / 2\n",
        "        self._held[message] = message.received + 1e9\n",
        _WORK + "test_a_handler_outlives_the_visibility_timeout_and_runs_once",
    ),
    Guard(
        "an event that was sent and has not ended is sent again",
        "webhookd/queue/relay.py",
        "            lost=limit,\n",
        "            lost=0,\n",
        _WORK + "test_what_sqs_lost_is_sent_again",
    ),
    Guard(
        "a message that a stopping worker holds is given back at once",
        "webhookd/process/worker.py",
        "            await shielded(self._delay(message, 0), _BOOKKEEPING)\n",
        "",
        _WORK + "test_stopping_gives_back_what_is_in_hand_at_once",
    ),
    Guard(
        "a row that PostgreSQL refuses does not make other rows of its batch fail",
        "webhookd/store/receipts.py",
        "        if len(rows) == 1:\n            return [error]\n",
        "        if rows:\n            raise\n",
        _RECEIVE + "test_one_row_that_postgresql_refuses_is_quarantined_and_its_neighbours_are_committed",
    ),
    Guard(
        "a notification id that is an alias stays an alias",
        "sql/queries/events.sql",
        "SELECT notification_key FROM webhookd.notification_aliases WHERE notification_key = ANY(:notification_keys::uuid[])\n",
        "SELECT NULL::uuid WHERE false\n",
        _RECEIVE + "test_an_event_through_a_second_webhook_is_linked_to_the_first",
    ),
    Guard(
        "a commit that waits for a lock delays no other webhook",
        "webhookd/runtime/batcher.py",
        "            self._overdue = True\n",
        "            pass\n",
        _RECEIVE + "test_a_commit_that_waits_for_a_lock_keeps_no_other_webhook_waiting",
    ),
    Guard(
        "the unexpected end of a batcher's worker is noticed",
        "webhookd/runtime/batcher.py",
        'self._watch.spawn(self._run(), f"batcher {self.name} {n}")',
        'asyncio.create_task(self._run(), name=f"batcher {self.name} {n}")',
        "tests/unit/test_batcher.py::test_a_worker_that_ends_unexpectedly_is_seen",
    ),
    Guard(
        "a row that a constraint refuses fails alone",
        "webhookd/store/receipts.py",
        "    asyncpg.IntegrityConstraintViolationError,\n",
        "",
        _RECEIVE + "test_one_row_that_postgresql_refuses_is_quarantined_and_its_neighbours_are_committed",
    ),
    Guard(
        "while PostgreSQL refuses to store events, the daemon is not ready",
        "webhookd/store/database.py",
        "                        await proof(connection)\n",
        "                        pass\n",
        _RECEIVE + "test_while_postgresql_refuses_to_store_webhooks_are_put_off_and_counted_and_the_daemon_is_not_ready",
    ),
    Guard(
        "two notifications that differ only in a detail that parsing loses are two events",
        "webhookd/authorizenet/content.py",
        "        if not _is_whole(body, envelope):\n",
        "        if not envelope:\n",
        _RECEIVE + "test_two_events_that_differ_only_in_what_parsing_loses_are_two",
    ),
    Guard(
        "a body that was mended is stored with its exact bytes",
        "webhookd/operate/quarantine.py",
        '    notification, mended = parse_mended(body, row["account"])\n',
        '    notification, mended = parse_mended(body, row["account"])\n    body += b\n',
        _QUARANTINE + "test_a_body_that_can_be_mended_is_released_with_its_exact_bytes",
    ),
    Guard(
        "group commits take their locks in one order",
        "webhookd/store/receipts.py",
        'sorted(arrivals, key=lambda a: (a.notification.content_key or b"", a.account, a.notification.notification_id))',
        "list(arrivals)",
        _RECEIVE + "test_two_receivers_with_the_same_events_at_once_make_each_one_event",
    ),
    Guard(
        "no event gets the texts of another kind that has the same id",
        "sql/queries/events.sql",
        "AND concat_ws(chr(31), account, event_type, coalesce(entity_name, ''), key_fingerprint) = ANY(:kind_texts::text[])\n)",
        "AND cardinality(:kind_texts::text[]) > 0\n)",
        _KINDS + "test_of_two_kinds_with_one_id_the_second_is_refused",
    ),
    Guard(
        "new kinds of events take their locks in one order",
        "sql/queries/events.sql",
        "ORDER BY i.id\nON CONFLICT (id)",
        "ON CONFLICT (id)",
        _KINDS + "test_two_batches_with_the_same_new_kinds_in_another_order_do_not_deadlock",
    ),
    Guard(
        "a kind that a restore lost is stored anew",
        "sql/queries/events.sql",
        "(SELECT known FROM kinds) AS known,",
        "true AS known,",
        _KINDS + "test_a_kind_that_a_restore_lost_comes_back_with_the_next_event",
    ),
    Guard(
        "an event that died meanwhile is not marked processed with other events",
        "sql/queries/events.sql",
        "w.status NOT IN ('dead', 'discarded')\n    ORDER BY w.event_id\n    FOR UPDATE OF w\n), locked",
        "w.status <> ''\n    ORDER BY w.event_id\n    FOR UPDATE OF w\n), locked",
        _BUNDLES + "test_an_event_that_ended_meanwhile_is_not_ended_again",
    ),
    Guard(
        "the timeline contains events whose handlers failed",
        "webhookd/process/fold.py",
        "facts = fold_all(claimed.event for claimed in events)",
        "facts = fold_all(claimed.event for claimed in ending)",
        _FOLD + "test_what_handlers_give_up_stays_on_the_timeline",
    ),
    Guard(
        "a locked row of the timeline delays other events for a moment only",
        "sql/queries/events.sql",
        "    SELECT set_config('lock_timeout', :lock_timeout, true)\n",
        "    SELECT :lock_timeout::text\n",
        _FOLD + "test_a_locked_row_of_the_timeline_delays_its_own_event_alone_and_counts_no_attempt",
    ),
    Guard(
        "a fold does not wait for handlers",
        "webhookd/process/shared_folds.py",
        'self._folds.turns, self._database.acquire("fold")',
        'self._folds.turns, self._database.acquire("work")',
        "tests/integration/test_fold.py::test_a_fold_waits_for_no_handler",
    ),
    Guard(
        "a fold that PostgreSQL refuses is a failed attempt",
        "webhookd/process/failure.py",
        "        raise AttemptFailedError(claimed, Failure.of(error)) from error\n",
        "        raise BusyError from error\n",
        _FOLD + "test_a_fold_that_postgresql_refuses_is_a_failed_attempt",
    ),
    Guard(
        "a retry folds an event that is not on the timeline yet",
        "webhookd/process/shared_folds.py",
        "if event_id in wanted and c.has_body]",
        "if event_id in wanted and c.has_body and c.attempts == 0]",
        "tests/integration/test_fold.py::test_a_retry_folds_what_is_not_on_the_timeline_yet",
    ),
    Guard(
        "users' handlers do not share transactions",
        "webhookd/process/fold.py",
        "        return not self._registry.matching(event_type)\n",
        "        return bool(event_type)\n",
        _BUNDLES + "test_users_handlers_have_transactions_of_their_own",
    ),
    Guard(
        "events that fail together are tried alone",
        "webhookd/process/shared_folds.py",
        '            logger.debug("events that shared a transaction are tried alone", count=len(ids), error=where(error))\n',
        '            raise UnavailableError("postgresql", where(error)) from error\n',
        _BUNDLES + "test_an_event_that_postgresql_refuses_fails_alone",
    ),
    Guard(
        "workers stop polling while PostgreSQL opens no sessions",
        "webhookd/store/database.py",
        "self.up and self.refusal is None and time.monotonic()",
        "self.up and time.monotonic()",
        "tests/integration/test_new_sessions.py::test_without_new_sessions_workers_stop_polling_and_say_so_and_nothing_dies",
    ),
    Guard(
        "polls of an empty queue have a pause between them",
        "webhookd/queue/poller.py",
        "return bool(messages) or time.monotonic() - began >= _PAUSE",
        "return True",
        "tests/integration/test_polling.py::test_an_empty_queue_is_asked_once_in_a_while_without_long_polls_too",
    ),
    Guard(
        "no message is hidden for longer than SQS allows",
        "webhookd/sqs/queue.py",
        '"VisibilityTimeout": min(seconds, max(',
        '"VisibilityTimeout": max(seconds, max(',
        "tests/contract/test_queue.py::test_what_is_to_be_hidden_for_too_long_is_hidden_for_as_long_as_can_be[strict]",
    ),
    Guard(
        "a message that lists more events than a bundle can have names no event",
        "webhookd/queue/message.py",
        "0 < len(events) <= MOST_EVENTS",
        "0 < len(events)",
        "tests/unit/test_message.py::test_a_message_names_no_more_events_than_a_bundle_has",
    ),
    Guard(
        "a dead event is revived only by a copy that webhookd wrote",
        "webhookd/process/records.py",
        "if reference.died is None or not is_proven(reference, await self._store.secret()):",
        "if reference.died is None:",
        _FORGERY + "test_a_forged_copy_on_the_queue_revives_no_dead_event",
    ),
    Guard(
        "the proof of a dead-letter copy covers all its fields, and its death",
        "webhookd/queue/proof.py",
        "        reference.died,\n",
        "",
        "tests/unit/test_message.py::test_a_copy_proves_all_that_it_says[died]",
    ),
    Guard(
        "copies that webhookd did not write give way to one true copy",
        "webhookd/queue/dead_letters.py",
        "and reference.event_id not in seen.replaced:",
        ":",
        _FORGERY + "test_copies_that_webhookd_did_not_write_are_replaced_by_one_true_copy",
    ),
    Guard(
        "invented event types in messages do not fill a cache",
        "webhookd/process/worker.py",
        "self._processed(label(reference.event_type), outcome).inc()",
        "self._processed(reference.event_type, outcome).inc()",
        _FORGERY + "test_event_types_that_messages_make_up_fill_no_cache",
    ),
    Guard(
        "a late record of a send does not overwrite a later change",
        "sql/queries/events.sql",
        "AND due = s.due AND status NOT IN ('dead', 'discarded')\n        FOR UPDATE SKIP LOCKED\n    ) AS w\n), changed",
        "AND status NOT IN ('dead', 'discarded')\n        FOR UPDATE SKIP LOCKED\n    ) AS w\n), changed",
        "tests/integration/test_flow.py::test_the_late_record_of_a_send_changes_nothing",
    ),
    Guard(
        "a message does not start a retry that no sweeper has taken",
        "webhookd/process/result.py",
        "(claimed.attempts != attempts or claimed.sends == 0)",
        "claimed.attempts != attempts",
        "tests/integration/test_flow.py::test_a_retry_that_no_sweeper_has_taken_is_not_made_by_any_message",
    ),
    Guard(
        "a count that could not be taken back is taken back later",
        "webhookd/process/attempt.py",
        "            self._owed.append(counted)\n",
        "            pass\n",
        "tests/integration/test_suspects.py::test_a_count_that_could_not_be_taken_back_is_taken_back_later",
    ),
    Guard(
        "a count is taken back later, too, if PostgreSQL does not confirm that the count was taken back",
        "webhookd/process/attempt.py",
        "except (UnavailableError, asyncio.CancelledError) as error:",
        "except UnavailableError as error:",
        "tests/unit/test_attempts.py::test_a_count_is_owed_if_postgresql_does_not_answer_that_it_is_taken_back",
    ),
    Guard(
        "a counted attempt that loses PostgreSQL while its handlers run stays counted",
        "webhookd/process/attempt.py",
        "                        counted = None\n",
        "                        pass\n",
        "tests/unit/test_attempts.py::test_a_count_stays_if_the_connection_was_lost_while_the_handlers_ran",
    ),
    Guard(
        "a counted attempt that loses PostgreSQL in its commit stays counted",
        "webhookd/process/attempt.py",
        "                except Exception:\n",
        "                except AttemptFailedError:\n",
        "tests/unit/test_attempts.py::test_a_count_stays_if_the_connection_was_lost_in_the_commit",
    ),
    Guard(
        "an attempt whose handlers did not run does not stay counted",
        "webhookd/process/attempt.py",
        "if tried and is_lost(connection):",
        "if is_lost(connection):",
        "tests/unit/test_attempts.py::test_a_count_is_taken_back_if_the_connection_was_lost_and_no_handler_ran",
    ),
    Guard(
        "a count that is taken back late is not subtracted from the counts of another attempt",
        "sql/queries/events.sql",
        "AND attempts = :attempts AND redriven_at IS NOT DISTINCT FROM :redriven_at::timestamptz;",
        "AND (:attempts::integer IS NULL OR :redriven_at::timestamptz IS NULL OR true);",
        "tests/integration/test_suspects.py::test_a_count_that_is_taken_back_late_is_not_taken_from_those_of_another_attempt",
    ),
    Guard(
        "a locked event does not stop other events",
        "sql/queries/events.sql",
        "FOR UPDATE OF w SKIP LOCKED;",
        ";",
        "tests/integration/test_suspects.py::test_an_event_that_somebody_holds_is_not_tried_alone",
    ),
    Guard(
        "an event that was received too often is folded alone",
        "webhookd/process/worker.py",
        "elif message.receive_count > TRUSTED:",
        "elif False:",
        "tests/integration/test_suspects.py::test_what_was_received_too_often_is_folded_alone",
    ),
    Guard(
        "the outbox does not wait for events with a time in the future",
        "sql/queries/events.sql",
        "        UNION ALL SELECT event_id FROM of_another_clock\n",
        "",
        "tests/integration/test_database.py::test_what_is_there_since_a_time_to_come_is_sent_once",
    ),
    Guard(
        "events that the queue may have lost do not use up the room of other events",
        "sql/queries/events.sql",
        "AND NOT fresh AND due > now() AND attempts > 1 LIMIT 1000",
        "AND NOT fresh AND attempts > 1 LIMIT 1000",
        "tests/integration/test_flow.py::test_what_failed_takes_no_room_of_what_is_fresh_and_has_a_bound_of_its_own",
    ),
    Guard(
        "an attempt that ends takes its count back before it releases the lock",
        "webhookd/process/attempt.py",
        "if counted is not None and not ended:",
        "if False:",
        "tests/unit/test_attempts.py::test_a_failed_attempt_takes_its_count_back_before_the_lock_falls",
    ),
    Guard(
        "a suspect that was in hand when its process ended is tried alone",
        "webhookd/process/alone.py",
        "alone=alone)",
        "alone=False)",
        "tests/unit/test_attempts.py::test_a_suspect_that_was_in_hand_when_its_process_ended_is_tried_alone",
    ),
    Guard(
        "a permit comes back when its event has ended",
        "webhookd/process/worker.py",
        "        finally:\n            self._count(reference, result.outcome)\n            if self._has_handlers(reference):\n"
        "                give(1)\n",
        "        finally:\n            self._count(reference, result.outcome)\n",
        "tests/integration/test_polling.py::test_permits_come_back_event_by_event",
    ),
    Guard(
        "a replica receives no more bundles than it has permits for",
        "webhookd/queue/poller.py",
        "limit = max(1, min(self._queue.limits.batch, room // self._weight))",
        "limit = self._queue.limits.batch",
        "tests/integration/test_polling.py::test_a_replica_leaves_bundles_that_it_has_no_permits_for_to_another_one",
    ),
    Guard(
        "in a queue that is never empty, a lost message is recognised in the end",
        "sql/queries/events.sql",
        "now() - make_interval(secs => :longest_wait)\n",
        "'-infinity'::timestamptz - make_interval(secs => :longest_wait)\n",
        "tests/integration/test_flow.py::test_in_a_queue_that_is_never_empty_a_message_counts_as_lost_after_the_longest_wait",
    ),
    Guard(
        "an event that waits in the queue does not count as lost",
        "sql/queries/events.sql",
        "now() - make_interval(secs => :longest_wait)\n",
        "now() - 0 * make_interval(secs => :longest_wait)\n",
        "tests/integration/test_flow.py::test_what_waits_in_the_queue_is_not_taken_for_lost",
    ),
    Guard(
        "retries do not use up the room of fresh events",
        "sql/queries/events.sql",
        "WHERE status = 'queued' AND fresh LIMIT :fresh)",
        "WHERE status = 'queued' LIMIT :fresh)",
        "tests/integration/test_flow.py::test_what_failed_takes_no_room_of_what_is_fresh_and_has_a_bound_of_its_own",
    ),
    Guard(
        "the number of retries in the queue is bounded",
        "webhookd/queue/relay.py",
        "rest, later = (max(0, min(limit, share - count)) for count in (in_queue.rest, in_queue.later))",
        "rest = later = limit",
        "tests/integration/test_flow.py::test_with_retries_that_hang_fresh_events_are_processed",
    ),
    Guard(
        "no clock decides whether a retry is due",
        "webhookd/process/result.py",
        "if claimed.status is Status.RETRYING and (claimed.attempts != attempts or claimed.sends == 0):",
        "if claimed.status is Status.RETRYING:",
        "tests/integration/test_flow.py::test_a_message_that_was_sent_for_a_retry_makes_its_attempt_although_the_lease_has_moved_its_time",
    ),
    Guard(
        "a message of another attempt starts no attempt",
        "webhookd/process/result.py",
        "if claimed.status is Status.RETRYING and (claimed.attempts != attempts or claimed.sends == 0):",
        "if False:",
        "tests/integration/test_flow.py::test_a_message_of_another_attempt_of_a_retrying_event_makes_none",
    ),
    Guard(
        "a bundle with an unfinished event comes back",
        "webhookd/process/worker.py",
        "        if again:\n            await self._delay(message, max(again))\n",
        "        if len(again) == len(results):\n            await self._delay(message, max(again))\n",
        _BUNDLES + "test_an_event_that_another_worker_has_is_left_to_it",
    ),
    Guard(
        "the claim of a worker that died delays no event",
        "webhookd/process/alone.py",
        "        if not ours and message.receive_count == 1:\n",
        "        if not ours:\n",
        _WORK + "test_an_event_does_not_wait_for_the_claim_of_a_worker_that_died",
    ),
    Guard(
        "a message whose event a live worker has is delayed",
        "webhookd/store/event_store.py",
        "query = queries.claim_event if wait else queries.claim_event_if_free",
        "query = queries.claim_event",
        _WORK + "test_a_message_that_came_back_waits_for_a_worker_that_lives",
    ),
    Guard(
        "events that an operator put back are sent after fresh events",
        "sql/queries/events.sql",
        "WHERE status = 'received' AND fresh AND due <= now()",
        "WHERE status = 'received' AND due <= now()",
        _OPERATOR + "test_fresh_events_are_sent_before_redriven_ones",
    ),
    Guard(
        "a redrive pauses while fresh events wait",
        "webhookd/operate/runner.py",
        "if work.kind is not Kind.DISCARD and await self._held(work):",
        "if False:",
        _OPERATOR + "test_a_redrive_holds_back_while_fresh_events_wait",
    ),
    Guard(
        "an operation waits while too many events that were put back before are not sent yet",
        "webhookd/operate/runner.py",
        'elif row["redriven"] >= ahead:',
        "elif False:",
        _OPERATOR + "test_a_redrive_waits_for_what_was_put_back_before",
    ),
    Guard(
        "an operation keeps to its rate",
        "webhookd/operate/runner.py",
        "pause = 0.0 if work.kind is Kind.DISCARD else len(rows) / work.rate",
        "pause = 0.0",
        _OPERATIONS + "test_a_replay_keeps_its_rate",
    ),
    Guard(
        "an operation does not choose events that die after its order",
        "webhookd/operate/runner.py",
        "dead_of(work.selection), work.created_at, cursor",
        "dead_of(work.selection), START.at, cursor",
        _OPERATOR + "test_an_event_that_dies_again_is_dead_again_with_one_copy",
    ),
    Guard(
        "a replay does not choose events that are processed after its order",
        "sql/queries/operator.sql",
        "    WHERE coalesce(e.finished_at, e.received_at) <= :until\n",
        "    WHERE :until::timestamptz IS NOT NULL\n",
        _OPERATIONS + "test_what_ended_after_the_order_is_not_run_again_by_it",
    ),
    Guard(
        "an event whose state has changed since an operation chose it is left alone",
        "sql/queries/dead_letters.sql",
        " AND w.due = given.ended\n",
        "\n",
        _OPERATIONS + "test_what_has_moved_on_since_it_was_chosen_is_skipped",
    ),
    Guard(
        "processed events run again only with force",
        "webhookd/admin/operation_routes.py",
        'if "processed" in (body.filter.status or ()) and not body.force and not body.dry_run:',
        "if False:",
        _OPERATIONS + "test_processed_events_run_again_only_with_force",
    ),
    Guard(
        "a processed event is retried only with force",
        "webhookd/operate/events.py",
        "if not retry.allowed or (retry.needs_force and not force):",
        "if not retry.allowed:",
        _RETRY + "test_what_a_retry_does_to_each_status[processed-False-409-processed]",
    ),
    Guard(
        "an event without its body is not put back",
        "sql/queries/dead_letters.sql",
        "    WHERE EXISTS (SELECT FROM webhookd.bodies b WHERE b.event_id = g.id)\n",
        "",
        _OPERATIONS + "test_an_event_without_its_body_is_not_run_again",
    ),
    Guard(
        "a batch of an operation and the record of its progress commit together",
        "webhookd/operate/runner.py",
        ', connection.transaction(isolation="read_committed"):\n            if work.kind is not Kind.DISCARD',
        ":\n            if work.kind is not Kind.DISCARD",
        _OPERATIONS + "test_a_batch_and_the_record_of_it_commit_together",
    ),
    Guard(
        "a process that no longer has an operation records nothing for it",
        "sql/queries/operator.sql",
        "WHERE id = :id AND holder = :holder::uuid AND finished_at IS NULL\nRETURNING id;",
        "WHERE id = :id AND :holder::uuid IS NOT NULL AND finished_at IS NULL\nRETURNING id;",
        _OPERATIONS + "test_two_replicas_work_on_one_operation_and_do_nothing_twice",
    ),
    Guard(
        "a cancelled operation does nothing more",
        "sql/queries/operator.sql",
        "WHERE id = :id AND holder = :holder::uuid AND finished_at IS NULL\nRETURNING id;",
        "WHERE id = :id AND holder = :holder::uuid\nRETURNING id;",
        _OPERATIONS + "test_a_batch_in_hand_when_its_operation_is_cancelled_is_undone",
    ),
    Guard(
        "one process at a time has an operation",
        "sql/queries/operator.sql",
        "            holder = :holder::uuid\n            OR held_until",
        "            :holder::uuid IS NOT NULL\n            OR held_until",
        _OPERATIONS + "test_one_process_at_a_time_has_an_operation",
    ),
    Guard(
        "a process that stops releases its operations",
        "webhookd/operate/runner.py",
        "            await self._statements.one(queries.let_go_of_operations, holder=self._me)\n",
        "            pass\n",
        _OPERATIONS + "test_what_a_stopped_process_leaves_goes_on_in_another_one_at_once",
    ),
    Guard(
        "an operation that fails does not stop other operations",
        "webhookd/operate/runner.py",
        '                    await self._record(connection, work, "failed")\n',
        "                    raise error\n",
        _OPERATIONS + "test_an_operation_that_fails_by_a_mistake_ends_and_the_others_go_on",
    ),
    Guard(
        "an operation that takes too long does not take the turn of other operations",
        "webhookd/operate/runner.py",
        "                    failure = error\n",
        "                    raise\n",
        _OPERATIONS + "test_an_operation_that_takes_too_long_for_postgresql_does_not_keep_others_from_their_turn",
    ),
    Guard(
        "a retry does not wait for the worker that has the event",
        "sql/queries/operator.sql",
        "WHERE event_id = :id FOR UPDATE NOWAIT;",
        "WHERE event_id = :id FOR UPDATE;",
        _RETRY + "test_an_event_in_a_workers_hands_is_refused_at_once",
    ),
    Guard(
        "of two retries at the same time one is accepted",
        "webhookd/operate/events.py",
        "                    await queries.lock_ends(connection)\n                    await queries.lock_work",
        "                    await queries.lock_work",
        _RETRY + "test_of_retries_at_the_same_time_one_is_accepted[processed]",
    ),
    Guard(
        "a retry makes the next attempt due at once",
        "sql/queries/operator.sql",
        "    UPDATE webhookd.work SET due = now()\n",
        "    UPDATE webhookd.work SET due = due\n",
        _RETRY + "test_one_that_waits_for_its_next_attempt_is_tried_at_once",
    ),
    Guard(
        "a body that is being released is not discarded meanwhile",
        "sql/queries/operator.sql",
        "FROM webhookd.quarantine WHERE id = :id FOR UPDATE;",
        "FROM webhookd.quarantine WHERE id = :id;",
        _QUARANTINE + "test_one_that_is_being_released_is_not_discarded",
    ),
    Guard(
        "a quarantined body that was released or discarded is not handled again",
        "sql/queries/operator.sql",
        "WHERE id = :id AND handled_at IS NULL\nRETURNING id;",
        "WHERE id = :id\nRETURNING id;",
        _QUARANTINE + "test_one_that_is_being_released_is_not_discarded",
    ),
    Guard(
        "of releases of one body at the same time, one makes an event",
        "sql/queries/operator.sql",
        "FROM webhookd.quarantine WHERE id = :id FOR UPDATE;",
        "FROM webhookd.quarantine WHERE id = :id;",
        _QUARANTINE + "test_releases_at_the_same_time_make_one_event",
    ),
    Guard(
        "a process records its counts before it stops",
        "webhookd/operate/statistics.py",
        "            async with asyncio.timeout(2):\n                await self._record()\n",
        "            pass\n",
        _STATISTICS + "test_an_orderly_stop_loses_nothing",
    ),
    Guard(
        "a webhook's age is judged by PostgreSQL's clock",
        "webhookd/receive/intake.py",
        "self._database.now()",
        "notification.event_date.now(notification.event_date.tzinfo)",
        "tests/faults/test_clock.py::test_a_clock_that_is_wrong[3456000]",
    ),
    Guard(
        "after PostgreSQL's clock was put back, the outbox does not wait until the old time comes again",
        "sql/queries/events.sql",
        "        UNION ALL SELECT event_id FROM fresh_of_another_clock\n",
        "",
        _DATABASE + "test_what_was_never_sent_and_is_due_by_a_clock_put_back_is_taken_after_all_others",
    ),
    Guard(
        "after PostgreSQL's clock was put back, a duty does not wait until the old time comes again",
        "sql/queries/database.sql",
        " OR d.held_until > now() + interval '10 minutes'",
        "",
        _DATABASE + "test_a_duty_is_one_processs_and_falls_to_another_that_sees_it_held_by_a_clock_put_back",
    ),
    Guard(
        "an event that waits, or is dead and not discarded, keeps its body",
        "sql/migrations/0007_destinations.sql",
        " AND (status <> 'discarded' OR discarded_at >= needed.since)\n",
        " AND discarded_at >= needed.since\n",
        _RETENTION + "test_what_waits_or_is_dead_keeps_its_body_and_trail_until_an_operator_lets_it_go[bodies-bodies]",
    ),
    Guard(
        "an event is removed only when its repeat would be too old to count as new",
        "sql/queries/retention.sql",
        "        AND event_date < now() - make_interval(secs => :window::float8)\n",
        "        AND :window::float8 > 0\n",
        _RETENTION + "test_a_repeat_of_a_removed_event_is_not_processed_anew",
    ),
    Guard(
        "the drop of a partition blocks the receiver for a moment at most",
        "sql/migrations/0003_retention.sql",
        "'300ms'",
        "'60s'",
        _RETENTION + "test_the_receiver_goes_on_while_a_drop_waits_for_its_lock",
    ),
    Guard(
        "while the oldest webhook waits too long, no more webhooks wait than were answered within a second",
        "webhookd/http/admission.py",
        "        if waited > _WAIT:",
        "        if False:",
        "tests/unit/test_admission.py::test_while_the_oldest_waits_too_long_as_many_may_wait_as_were_answered_within_a_second",
    ),
    Guard(
        "connections that arrive together are accepted together",
        "webhookd/http/listener.py",
        "_ACCEPTS = 128",
        "_ACCEPTS = 1",
        _CONNECTIONS + "test_connections_that_have_come_together_are_taken_within_a_few_turns_of_the_loop",
    ),
    Guard(
        "large bodies share a budget of memory",
        "webhookd/receive/bodies.py",
        "        if self.held + more > self._limit:",
        "        if False:",
        _CONNECTIONS + "test_large_bodies_share_a_budget_and_do_not_keep_out_notifications",
    ),
    Guard(
        "no received byte is decompressed",
        "webhookd/http/connections.py",
        "auto_decompress=False",
        "auto_decompress=True",
        _ATTACKS + "test_no_byte_that_comes_is_inflated",
    ),
    Guard(
        "a request counts as work only when its body is complete",
        "webhookd/http/connection.py",
        "        if request.content.is_eof():\n            self._complete()",
        "        if True:\n            self._complete()",
        _ATTACKS + "test_connections_with_an_incomplete_request_make_room",
    ),
    Guard(
        "a refusal does not overtake the answer before it",
        "webhookd/http/connection.py",
        "        if self.phase in (Phase.BODY, Phase.WORK, Phase.NEXT) or self._messages:",
        "        if False:",
        _ATTACKS + "test_what_is_malformed_is_answered_after_the_request_before_it",
    ),
    Guard(
        "malformed bytes after a webhook do not make webhookd lose that webhook",
        "webhookd/http/connection.py",
        "web_protocol.MAX_MSG_QUEUE_SIZE = 1",
        "web_protocol.MAX_MSG_QUEUE_SIZE = 32",
        _REQUESTS + "test_a_webhook_is_taken_whatever_comes_behind_it_in_the_same_read",
    ),
    Guard(
        "the parser goes on after each request",
        "webhookd/http/connection.py",
        '            self.data_received(b"")',
        "            pass",
        _REQUESTS + "test_the_last_of_a_pipeline_is_answered_when_the_client_ends_its_half_before_its_turn",
    ),
    Guard(
        "a pipeline is read no faster than it is answered",
        "webhookd/http/connection.py",
        "            self._max_msg_queue_size = 1",
        "            pass",
        _REQUESTS + "test_a_pipeline_is_read_no_faster_than_it_is_answered",
    ),
    Guard(
        "complete requests are not mistaken for the report of an error",
        "webhookd/http/connection.py",
        "elif self._incomplete() and self._messages and",
        "elif self.phase is Phase.BODY and self._messages and",
        _REQUESTS + "test_whole_requests_behind_a_body_whose_handler_has_not_begun_are_no_error",
    ),
    Guard(
        "a request for another protocol ends its connection",
        "webhookd/http/connection.py",
        "            response.force_close()  # aiohttp's parser",
        "            pass  # aiohttp's parser",
        _REQUESTS + "test_a_client_that_asks_for_another_protocol_is_told_that_what_follows_is_not_read",
    ),
    Guard(
        "any error of the parser is answered 400",
        "webhookd/http/connection.py",
        "        except Exception:  # noqa: BLE001  aiohttp",
        "        except ValueError:  # noqa: BLE001  aiohttp",
        _ATTACKS + "test_whatever_the_parser_raises_is_400_counted_and_not_logged",
    ),
    Guard(
        "a client that closes its sending side gets its answers",
        "webhookd/http/connection.py",
        "        return self.ssl_context is None",
        "        return None",
        _ATTACKS + "test_a_client_that_ends_its_half_gets_its_answers",
    ),
    Guard(
        "the connection of a client that reads nothing is cut",
        "webhookd/http/connections.py",
        "        for phase in (Phase.UNREAD, Phase.CLOSING):",
        "        for phase in ():",
        _ATTACKS + "test_a_client_that_reads_nothing_is_cut",
    ),
    Guard(
        "a body that does not arrive in time is answered 408",
        "webhookd/http/connections.py",
        "                    connection.fail_body(TimeoutError())\n",
        "                    pass\n",
        "tests/integration/test_connections.py::test_an_expected_body_that_never_comes_is_408",
    ),
    Guard(
        "a body that is under way at a stop times out",
        "webhookd/http/connections.py",
        "        for connection in [*self._in[Phase.HEAD], *self._in[Phase.IDLE], *self._in[Phase.CLOSING]]:\n",
        "        self._timer = self._timer and self._timer.cancel()\n"
        "        for connection in [*self._in[Phase.HEAD], *self._in[Phase.IDLE], *self._in[Phase.CLOSING]]:\n",
        "tests/integration/test_connections.py::test_a_body_that_is_under_way_at_a_stop_is_answered",
    ),
    Guard(
        "a request whose client left before its turn keeps no task",
        "webhookd/http/connection.py",
        "        if self._socket is None and not request.content.is_eof():\n",
        "        if False:\n",
        _ATTACKS + "test_a_request_whose_client_left_before_its_turn_keeps_no_task",
    ),
    Guard(
        "a client that reads nothing gets no more answers than its buffers hold",
        "webhookd/http/listener.py",
        "socket.SO_SNDBUF, _SEND_BYTES)",
        "socket.SO_SNDBUF, 4 << 20)",
        _ATTACKS + "test_a_client_that_reads_nothing_is_served_no_more_than_its_buffers_hold",
    ),
    Guard(
        "a body with thousands of small chunks is refused",
        "webhookd/receive/app.py",
        "            if chunks > _CHUNKS and size < chunks * _CHUNK_BYTES:",
        "            if False:",
        _ATTACKS + "test_a_body_in_too_many_small_chunks_is_refused_before_all_are_parsed",
    ),
    Guard(
        "the count of chunks keeps up with the parser",
        "webhookd/http/connections.py",
        "_READ_BYTES = 16_384",
        "_READ_BYTES = 262_144",
        _ATTACKS + "test_a_body_in_too_many_small_chunks_is_refused_before_all_are_parsed",
    ),
    Guard(
        "a request in a pipeline does not count as work before its turn",
        "webhookd/http/connection.py",
        "whole: Phase = Phase.NEXT",
        "whole: Phase = Phase.WORK",
        _ATTACKS + "test_a_request_in_a_pipeline_is_no_work_before_its_turn",
    ),
    Guard(
        "the connection of a client that sends a pipeline can make room for another client",
        "webhookd/http/connections.py",
        "Phase.UNREAD, Phase.NEXT, Phase.IDLE):",
        "Phase.UNREAD, Phase.IDLE):",
        _ATTACKS + "test_a_client_that_sends_a_pipeline_makes_room",
    ),
    Guard(
        "a reset does not destroy the answer to a refused body",
        "webhookd/http/connection.py",
        "            await self._rest.ended()\n",
        "            self.shut()\n",
        _ATTACKS + "test_the_refusal_of_a_large_body_reaches_its_sender_and_ends_the_connection",
    ),
    Guard(
        "a listener bounds its connections",
        "webhookd/http/connections.py",
        "        if len(self._all) - len(self.leaving) > self._settings.connections:",
        "        if False:",
        _ATTACKS + "test_the_admin_listener_bounds_its_connections",
    ),
    Guard(
        "a look-up by id does not read all waiting events",
        "sql/queries/events.sql",
        "AND w.event_id = ANY(:ids::uuid[]) AND w.consumer = 'handlers'",
        "AND w.consumer = 'handlers'",
        "tests/integration/test_plans.py::test_look_ups_by_id_read_no_index_of_what_waits",
    ),
    Guard(
        "AWS credentials that expire are renewed",
        "webhookd/sqs/credentials.py",
        "if self._frozen is None or self._ends_within(None):",
        "if self._frozen is None:",
        _CLIENT + "test_credentials_that_end_are_renewed",
    ),
    Guard(
        "a connection that SQS closed does not make a message fail",
        "webhookd/sqs/clients.py",
        '"total_max_attempts": 2',
        '"total_max_attempts": 1',
        _CLIENT + "test_a_call_that_may_succeed_the_next_time_is_made_twice[None]",
    ),
    Guard(
        "a proxy's page with status 200 does not count as an empty queue",
        "webhookd/sqs/clients.py",
        "        if not isinstance(answer, dict):\n",
        "        if False:\n",
        _CLIENT + "test_an_answer_that_is_not_one_of_sqs_means_that_sqs_is_away",
    ),
    Guard(
        "an answer of SQS that botocore cannot read means that SQS is away",
        "webhookd/sqs/queue.py",
        "        except (*ERRORS, *ODD_ANSWERS) as error:",
        "        except ERRORS as error:",
        _CLIENT + "test_an_answer_that_is_not_one_of_sqs_means_that_sqs_is_away",
    ),
    Guard(
        "no heartbeat begins for a message that was just released",
        "webhookd/queue/leases.py",
        "        messages = [message for message in messages if message in self._held]\n",
        "",
        "tests/unit/test_leases.py::test_what_is_released_while_a_turn_begins_is_not_extended",
    ),
    Guard(
        "no webhook waits long for a migration",
        "webhookd/store/migrations.py",
        "lock=_ms(self._lock_timeout), statement=_ms(HELD), local=True",
        "lock=_ms(0), statement=_ms(0), local=True",
        "tests/upgrade/test_locks.py::test_webhooks_go_on_while_a_migration_waits_for_its_lock",
    ),
    Guard(
        "a pooler that no setting declares is not used",
        "webhookd/store/database.py",
        'if not self._pooled and is_pooled(connection, row["backend"]):',
        "if False:",
        "tests/integration/test_pgbouncer.py::test_a_pooler_that_no_setting_declares_is_not_used_even_if_it_would_work",
    ),
    Guard(
        "a reload drops no request and no key that is still set",
        "webhookd/receive/role.py",
        "        self._intake.renew(settings.keys_by_account)\n",
        "        self._intake.renew({})\n",
        "tests/deploy/test_systemd.py::test_a_service_run_by_its_unit_rotates_its_keys_under_load_and_stops_in_order",
    ),
    Guard(
        "a changed file of keys needs no signal",
        "webhookd/service.py",
        "            if await asyncio.to_thread(files.seen):\n                changed.set()",
        "            if await asyncio.to_thread(files.seen):\n                pass",
        _RELOAD + "test_a_changed_file_of_keys_needs_no_signal",
    ),
    Guard(
        "a new password of PostgreSQL needs no restart",
        "webhookd/store/database.py",
        "        self._server.url = url\n",
        "",
        _RELOAD + "test_a_new_password_of_postgresql_needs_no_restart",
    ),
    Guard(
        "a wrong new password of PostgreSQL takes no session away",
        "webhookd/store/database.py",
        "            if self.up or isinstance(error, WebhookdError) or refusal(error, url):\n",
        "            if False:\n",
        _RELOAD + "test_a_new_password_of_postgresql_needs_no_restart",
    ),
    Guard(
        "without a token for RDS, open sessions go on",
        "webhookd/store/database.py",
        "        except NoPasswordError as error:\n",
        "        except MemoryError as error:\n",
        "tests/integration/test_database_tls.py::test_without_a_token_open_sessions_go_on",
    ),
    Guard(
        "each connection to RDS has a password of its own",
        "webhookd/store/session.py",
        'options["password"] = await self._password(self.url)',
        'options["password"] = "x"',
        "tests/integration/test_database_tls.py::test_each_connection_gets_a_password_of_its_own",
    ),
    Guard(
        "a reload leads to no other server",
        "webhookd/settings/model.py",
        "if name in _RENEWABLE or same_server(getattr(before, name), value)",
        "if True",
        _RELOAD + "test_another_server_in_a_url_waits_for_a_restart",
    ),
    Guard(
        "a refusal lists a few mistakes, however many were sent",
        "webhookd/admin/route.py",
        "            for one in mistakes[:_MOST_ERRORS]",
        "            for one in found",
        _BOUNDS + "test_however_much_is_wrong_a_refusal_lists_a_few_short_mistakes",
    ),
    Guard(
        "webhookd does not read a body beyond its bound",
        "webhookd/admin/route.py",
        "        if len(raw) > largest:",
        "        if False:",
        _BOUNDS + "test_a_body_without_a_length_is_read_no_further_than_its_bound",
    ),
    Guard(
        "after many wrong tokens, the next token has to wait",
        "webhookd/admin/access.py",
        "        until = loop.time() + wait",
        "        until = loop.time()",
        _BOUNDS + "test_a_guesser_is_slowed_down_and_a_right_token_always_works",
    ),
    Guard(
        "an address that a folder names does not get the user's token",
        "webhookd/settings/sources.py",
        "    return named_by is None or (loopback and secret.kept_in == named_by)",
        "    return True",
        _TARGET + "test_the_users_token_never_goes_to_an_address_that_the_folder_names",
    ),
    Guard(
        "a file outside the folder does not count as the folder's own",
        "webhookd/settings/sources.py",
        "    return folder if folder is not None and path.resolve().is_relative_to(folder) else None",
        "    return folder",
        _TARGET + "test_a_folder_that_names_the_file_or_variable_of_the_users_token_does_not_get_it",
    ),
    Guard(
        "trigger does not sign with the user's key for an address that a folder names",
        "webhookd/dev/known.py",
        "    if url is None:\n",
        "    if False:\n",
        _CLI + "test_trigger_signs_nothing_with_the_users_key_for_an_address_that_the_folder_names",
    ),
    Guard(
        "an SQS address that a folder names gets no real AWS credentials",
        "webhookd/dev/known.py",
        '        os.environ.update({name: kept.get(name) or "dev" for name in _CREDENTIALS})\n',
        "        os.environ.update({name: value for name, value in kept.items() if name.startswith('AWS_') and value})\n",
        _CLI + "test_a_sessions_sqs_gets_no_real_credentials_and_the_folder_sets_nothing_else_of_aws",
    ),
    Guard(
        "a database that a folder names gets no password of the user's",
        "webhookd/settings/loading.py",
        '    if os.environ.get("PGPASSWORD") and not has_password:\n',
        "    if False:\n",
        _SETTINGS + "test_the_users_pgpassword_goes_to_no_database_that_the_folder_names",
    ),
    Guard(
        "a setting that is spelled in two ways is refused",
        "webhookd/settings/sources.py",
        "        if secret in self.files if in_file else name in self.values:\n",
        "        if False:\n",
        _SETTINGS + "test_two_spellings_of_one_setting_in_one_source_are_refused",
    ),
    Guard(
        "no redirect is followed with the token",
        "webhookd/cli/operator/api.py",
        "allow_redirects=False",
        "allow_redirects=True",
        "tests/unit/test_client_commands.py::test_no_redirect_is_followed_with_the_token",
    ),
    Guard(
        "the folder's .env is the weakest source",
        "webhookd/settings/sources.py",
        "every = [environment, _credentials(), *_configuration(environment, dotenv), dotenv]",
        "every = [environment, dotenv, _credentials(), *_configuration(environment, dotenv)]",
        _SETTINGS + "test_what_the_folder_says_weakens_nothing_that_the_configuration_or_the_environment_says",
    ),
    Guard(
        "a Signature Key that could be guessed is refused",
        "webhookd/settings/fit.py",
        "            if not _KEY.fullmatch(key):",
        "            if False:",
        "tests/integration/test_reload.py::test_a_key_that_cannot_be_one_leaves_all_as_it_was",
    ),
    Guard(
        "the order of arrival does not change a timeline's row",
        "webhookd/authorizenet/facts.py",
        "max((facts[name] for facts in (a, b) if name in facts), key=_order)",
        "(b if name in b else a)[name]",
        _TIMELINE + "test_every_order_of_arrival_with_duplicates_ends_in_the_same_row",
    ),
    Guard(
        "a payment that the bank refused after the review is not approved",
        "webhookd/authorizenet/timeline.py",
        '{1: _APPROVED, 4: _Outcome("approved", ("approved_at",)), **_REFUSALS}',
        "{_ANY: _APPROVED}",
        _TIMELINE + "test_a_story_ends_in_the_row_that_is_expected_of_it",
    ),
    Guard(
        "a voided payment counts in no sum",
        "webhookd/authorizenet/timeline.py",
        '_VOIDED = _Outcome("voided", ("voided_at",), _SUMS)',
        '_VOIDED = _Outcome("voided", ("voided_at",))',
        _TIMELINE + "test_a_story_ends_in_the_row_that_is_expected_of_it",
    ),
    Guard(
        "a held sale is captured by its approval, when the row is folded in a shared transaction",
        "sql/queries/events.sql",
        "webhookd.settle(webhookd.fold(t.facts, excluded.facts))",
        "webhookd.fold(t.facts, excluded.facts)",
        "tests/integration/test_timeline.py::test_facts_that_share_a_transaction_are_settled_with_the_row",
    ),
    Guard(
        "a request with an unknown host name gets no data",
        "webhookd/admin/app.py",
        "        if route not in _BY_ADDRESS and not hosts.knows(request):",
        "        if False:",
        _HOSTS + "test_an_unknown_host_name_is_shown_nothing_and_changes_nothing",
    ),
    Guard(
        "a page of another origin changes nothing",
        "webhookd/admin/app.py",
        "        if route[0] in _CHANGES and hosts.is_cross_origin(request):",
        "        if False:",
        _HOSTS + "test_a_change_that_another_origins_page_sends_is_refused",
    ),
    Guard(
        "an empty filter does not choose every dead event",
        "webhookd/admin/dead_letter_routes.py",
        "        if not self.model_fields_set:",
        "        if False:",
        _OPERATOR + "test_an_order_that_could_not_be_meant_is_refused",
    ),
    Guard(
        "a session that was signed out of is over on every replica",
        "webhookd/admin/access.py",
        "            ended = await self._sessions.ended(session)",
        "            ended = False",
        _SESSIONS + "test_signing_out_ends_the_session_on_every_replica",
    ),
    Guard(
        "a session that nobody can look up shows no event",
        "webhookd/admin/access.py",
        "            if not bears_no_event:\n                raise\n",
        "",
        _SESSIONS + "test_a_session_that_nobody_can_look_up_shows_no_event",
    ),
    Guard(
        "the result of an attempt before a redrive does not count for an attempt after it",
        "sql/queries/events.sql",
        "due = now() + make_interval(secs => :delay)\n"
        "    WHERE event_id = :id AND consumer = 'handlers' AND attempts = :attempts\n"
        "        AND redriven_at IS NOT DISTINCT FROM :redriven_at::timestamptz AND",
        "due = now() + make_interval(secs => :delay)\n"
        "    WHERE event_id = :id AND consumer = 'handlers' AND attempts = :attempts\n"
        "        AND :redriven_at::timestamptz IS NULL AND",
        _RETRY + "test_the_late_result_of_an_attempt_before_a_redrive_changes_nothing",
    ),
    Guard(
        "a bundle fits into the largest message that the queue allows",
        "webhookd/queue/bundles.py",
        "fitting = min(MOST_EVENTS, max(1, (most_bytes - _FRAME) // largest))",
        "fitting = MOST_EVENTS",
        f"{_LIMITS}test_a_hundred_events_go_through_a_queue_of_small_messages",
    ),
    Guard(
        "the events of a bundle that SQS refuses are sent alone",
        "webhookd/queue/bundles.py",
        "if isinstance(failure, MessageRefusedError) and len(message) > 1:",
        "if False:",
        f"{_LIMITS}test_events_of_a_bundle_that_sqs_refuses_are_sent_alone",
    ),
    Guard(
        "the messages of a call that SQS refuses are sent alone",
        "webhookd/sqs/queue.py",
        "        if len(texts) == 1:\n            return [MessageRefusedError(refused)]\n",
        "        if texts:\n            return [MessageRefusedError(refused)] * len(texts)\n",
        f"{_LIMITS}test_an_event_whose_message_is_refused_holds_up_no_other",
    ),
    Guard(
        "an event whose message SQS refuses holds up no other",
        "webhookd/queue/relay.py",
        "        refused = [event for event in events if isinstance(failures.get(event.id), MessageRefusedError)]\n",
        "        refused: list[Outgoing] = []\n",
        _LIMITS + "test_an_event_whose_message_is_refused_holds_up_no_other",
    ),
    Guard(
        "a dead-letter copy fits into its queue",
        "webhookd/queue/dead_letters.py",
        "sign(fit(reference, self._queue.limits.message_bytes), secret)",
        "sign(reference, secret)",
        f"{_LIMITS}test_a_copy_of_a_dead_event_fits_a_small_dead_letter_queue",
    ),
    Guard(
        "a handler whose event type has a typo is refused",
        "webhookd/process/handlers.py",
        "        if not unknown and not any(",
        "        if False and not any(",
        "tests/unit/test_handlers.py::test_a_pattern_that_matches_no_known_type_is_refused_with_the_nearest",
    ),
    Guard(
        "@on without parentheses is refused",
        "webhookd/process/handlers.py",
        "    if callable(pattern):\n",
        "    if False:\n",
        "tests/unit/test_handlers.py::test_on_without_parentheses_is_refused",
    ),
    Guard(
        "a handler that webhookd cannot call is refused",
        "webhookd/process/handlers.py",
        "        check_handler(handler)\n",
        "",
        "tests/unit/test_handlers.py::test_a_handler_that_webhookd_cannot_call_is_refused_with_the_remedy",
    ),
    Guard(
        "a module without a handler is refused",
        "webhookd/process/loading.py",
        "        elif module not in registered.modules:\n",
        "        elif False:\n",
        "tests/unit/test_handlers.py::test_a_module_that_fails_is_named_with_its_file_its_line_and_the_remedy",
    ),
    Guard(
        "a failure names the line of the user's own code",
        "webhookd/telemetry/frames.py",
        "    theirs = [found for found in frames if _is_theirs(found[0], package)] or frames[:1]\n",
        "    theirs = frames\n",
        "tests/unit/test_frames.py::test_a_failure_names_the_handler_and_the_users_own_line",
    ),
    Guard(
        "a slow hook does not hold up the stop",
        "webhookd/process/hooks.py",
        "timeout=max(self._deadline - time.monotonic(), _LEAST_STOP)",
        "timeout=None",
        "tests/unit/test_hooks.py::test_a_slow_hook_does_not_hold_up_the_stop_and_the_earlier_ones_end",
    ),
    Guard(
        "the message of a hook's exception is not shown",
        "webhookd/process/hooks.py",
        '    return f"{type(error).__qualname__}{origin(',
        '    return f"{error}{origin(',
        "tests/unit/test_hooks.py::test_a_hook_that_fails_is_named_with_its_line_and_without_its_message_and_the_earlier_ones_end",
    ),
    Guard(
        "a duplicate makes no delivery",
        "sql/queries/events.sql",
        "AS d (id, destination) JOIN inserted USING (id)",
        "AS d (id, destination)",
        _DESTINATIONS + "test_a_duplicate_makes_no_delivery",
    ),
    Guard(
        "a delivery that is taken is hidden from other senders for longer than its attempt may take",
        "sql/queries/deliveries.sql",
        "SET due = now() + make_interval(secs => :lease), sends = d.sends + 1",
        "SET due = now() + make_interval(secs => :lease * 0), sends = d.sends + 1",
        _DESTINATIONS + "test_two_replicas_deliver_each_event_once",
    ),
    Guard(
        "a delivery ends only after its destination has accepted the event",
        "webhookd/deliver/answers.py",
        "return 200 <= status < 300",
        "return 200 <= status < 600",
        _DESTINATIONS + "test_a_failure_is_tried_again_with_the_same_id_and_then_ends",
    ),
    Guard(
        "a redirect is not followed",
        "webhookd/deliver/client.py",
        "allow_redirects=False",
        "allow_redirects=True",
        _DESTINATIONS + "test_a_redirect_is_a_failure_and_is_not_followed",
    ),
    Guard(
        "nothing is sent to a private address",
        "webhookd/deliver/client.py",
        "socket_factory=None if settings.allow_private else public_socket",
        "socket_factory=None",
        _DESTINATIONS + "test_nothing_is_sent_to_a_private_address_unless_the_settings_allow_it",
    ),
    Guard(
        "of a destination's answer, 64 KiB are read",
        "webhookd/deliver/client.py",
        "while len(body) < _MOST_READ and (chunk := await response.content.read(_MOST_READ - len(body)))",
        "while chunk := await response.content.read(_MOST_READ)",
        _BROKEN + "test_of_a_gigabyte_64_kib_are_read_and_2_kib_kept",
    ),
    Guard(
        "a destination's answer is not inflated",
        "webhookd/deliver/client.py",
        "auto_decompress=False",
        "auto_decompress=True",
        _BROKEN + "test_a_small_answer_is_not_inflated",
    ),
    Guard(
        "an answer that repeats a secret is stored without the secret",
        "webhookd/deliver/destination.py",
        'return self._secrets.sub("***", text)',
        "return text",
        _BROKEN + "test_an_answer_that_repeats_a_secret_does_not_show_the_secret",
    ),
    Guard(
        "retention keeps a body that is still to be delivered",
        "sql/migrations/0007_destinations.sql",
        "SELECT event_id FROM webhookd.deliveries WHERE event_id BETWEEN low AND high\n",
        "SELECT event_id FROM webhookd.deliveries WHERE false\n",
        _DESTINATIONS + "test_retention_keeps_a_body_that_is_still_to_be_delivered",
    ),
    Guard(
        "a look-up of deliveries by the ids of events reads no index of what waits",
        "sql/queries/deliveries.sql",
        "WHERE event_id = ANY(:ids::uuid[]) AND status <> 'dead'",
        "WHERE event_id = ANY(:ids::uuid[]) AND status = 'waiting'",
        _PLANS + "test_a_statement_reads_its_index",
    ),
    Guard(
        "a paused destination gets nothing from any replica",
        "sql/queries/deliveries.sql",
        "WHEN EXISTS (SELECT FROM webhookd.paused_destinations WHERE destination = :destination) THEN 0",
        "WHEN false THEN 0",
        "tests/integration/test_destination_commands.py::test_a_pause_holds_on_every_replica_and_counts_no_attempt",
    ),
    Guard(
        "a replay to a destination runs no handler",
        "sql/queries/destination_replays.sql",
        "), audit AS (",
        "), handled AS (\n    INSERT INTO webhookd.work (event_id, consumer, due)\n"
        "    SELECT event_id, 'handlers', now() FROM anew ON CONFLICT DO NOTHING\n), audit AS (",
        _REPLAYS + "test_a_replay_to_a_destination_sends_stored_events_again_and_runs_no_handler",
    ),
    Guard(
        "a process of the release before, which knows no destinations, takes no replay to a destination",
        "sql/queries/operator.sql",
        "    + CASE WHEN selection->>'destination' IS NULL THEN interval '0' ELSE interval '1000 years' END\nWHERE",
        "\nWHERE",
        _REPLAYS + "test_the_release_before_never_takes_a_replay_to_a_destination",
    ),
    Guard(
        "a destination has one replay at a time",
        "webhookd/operate/operations.py",
        "if destination is not None:",
        "if False:",
        _REPLAY_BOUNDS + "test_a_destination_has_one_replay_at_a_time",
    ),
    Guard(
        "a replay to a destination that waits takes no place from other operations",
        "sql/queries/operator.sql",
        "    holder = CASE WHEN :held_by::text IS NULL THEN holder END,\n",
        "    holder = :holder::uuid,\n",
        _REPLAY_BOUNDS + "test_replays_that_wait_take_no_place_from_other_operations",
    ),
    Guard(
        "a page of a replay to a destination has a bounded number of bytes",
        "sql/queries/destination_replays.sql",
        "WHERE coalesce(before, 0) < :most",
        "WHERE :most::bigint IS NOT NULL",
        _REPLAY_BOUNDS + "test_a_page_has_a_bounded_number_of_bytes",
    ),
    Guard(
        "dropping all deliveries of a destination ends its replay",
        "webhookd/operate/destinations.py",
        "if unfinished and ids is None:",
        "if False:",
        _REPLAY_BOUNDS + "test_dropping_everything_ends_the_replay",
    ),
    Guard(
        "a replay to a destination leaves out imported history that the destination never had",
        "webhookd/operate/destination_replays.py",
        'elif row["imported"] and not imported:',
        "elif False:",
        _REPLAY_BOUNDS + "test_history_is_left_out_unless_it_is_asked_for_or_was_sent_before",
    ),
    Guard(
        "webhookd listen changes nothing in webhookd",
        "webhookd/cli/operator/listen.py",
        'body: Json | None = (await self._api.get("events", event_id))["body"]',
        'body: Json | None = (await self._api.get("events", event_id))["body"]\n'
        '                await self._api.post("events", event_id, "retry", body={}, force=True)',
        _LISTEN + "test_an_api_that_is_away_for_a_while_loses_no_event",
    ),
    Guard(
        "webhookd listen goes on when the admin API is back",
        "webhookd/cli/operator/listen.py",
        "if error.exit_code is not Exit.UNAVAILABLE:",
        "if error.exit_code is not None:",
        _LISTEN + "test_an_api_that_is_away_for_a_while_loses_no_event",
    ),
    Guard(
        "a destination has no more requests at a time than its settings allow",
        "webhookd/deliver/sender.py",
        "free = min(self.destination.places - len(self._tasks), self._room())",
        "free = min(self.destination.places, self._room())",
        _DESTINATIONS + "test_of_ten_destinations_one_hangs_and_nobody_else_waits",
    ),
    Guard(
        "a request's time is PostgreSQL's, however wrong this machine's clock is",
        "webhookd/deliver/role.py",
        "    def _now(self) -> datetime:\n        return self._database.now()",
        "    def _now(self) -> datetime:\n        return datetime.now(self._database.now().tzinfo)",
        "tests/faults/test_destinations.py::test_a_wrong_clock_of_the_sender_changes_neither_retries_nor_signatures",
    ),
    Guard(
        "a delivery whose answer is lost, or never came, is sent again",
        "webhookd/deliver/sender.py",
        "done = answer.status is not None and accepted(answer.status)",
        "done = answer.status is None or accepted(answer.status)",
        "tests/faults/test_destinations.py::test_the_guides_receiver_for_express_gets_each_event",
    ),
    Guard(
        "what no later attempt can send is dead at once",
        "webhookd/deliver/sender.py",
        "dead=answer.final",
        "dead=False",
        _CLOUD + "test_what_is_too_large_is_dead_at_once_and_asks_nobody",
    ),
    Guard(
        "of a batch, each event has the result that the service gives for it",
        "webhookd/cloud/services.py",
        "return [None if id_ in sent and id_ not in failed else",
        "return [None if sent else",
        _CLOUD + "test_a_queues_faults_lose_nothing_and_events_are_sent_together",
    ),
    Guard(
        "of a batch for a bus, each event has the result that the service gives for it",
        "webhookd/cloud/services.py",
        'None if one.get("EventId") and not one.get("ErrorCode") else',
        'None if one.get("EventId") else',
        _CLOUD + "test_of_a_bus_each_event_has_its_own_result",
    ),
    Guard(
        "an event that a service refuses takes no neighbour along",
        "webhookd/cloud/client.py",
        "if is_of_events and len(waiting) > 1:",
        "if False:",
        _CLOUD + "test_an_event_that_is_refused_is_dead_and_its_neighbours_are_sent",
    ),
    Guard(
        "an answer of a service that does not name an event is no success",
        "webhookd/cloud/services.py",
        'failed.get(id_, "unknown")',
        "failed.get(id_)",
        _CLOUD + "test_an_answer_that_names_no_event_is_no_success",
    ),
    Guard(
        "nothing is sent to a bus before it was looked for",
        "webhookd/cloud/services.py",
        "            await client.describe_event_bus(Name=self._name)\n",
        "",
        _CLOUD + "test_a_refusal_of_a_service_is_explained_and_tried_again",
    ),
    Guard(
        "webhookd's own queue is no destination",
        "webhookd/settings/cloud.py",
        "return _last(one) == _last(other)",
        "return False",
        "tests/unit/test_settings.py::test_a_cloud_destination_that_cannot_work_is_refused",
    ),
    Guard(
        "a FIFO queue gets an event's id, by which it drops a repeat",
        "webhookd/cloud/services.py",
        '"MessageDeduplicationId": headers["webhook-id"]',
        '"MessageDeduplicationId": headers["webhook-id"] + str(id(headers))',
        _CLOUD + "test_a_fifo_queue_drops_a_repeat_by_the_events_id",
    ),
    Guard(
        "no redirect of a cloud service is followed",
        "webhookd/cloud/session.py",
        "allow_redirects=False",
        "allow_redirects=True",
        _CLOUD + "test_no_redirect_is_followed",
    ),
    Guard(
        "an event is confirmed when its own request is answered",
        "webhookd/cloud/client.py",
        "                self._give(item, Answer(0.0, _SENT) if",
        "                asyncio.get_running_loop().call_later(3, self._give, item, Answer(0.0, _SENT) if",
        _CLOUD + "test_each_event_is_confirmed_as_soon_as_its_request_is_answered",
    ),
    Guard(
        "a stop sends no request that has not begun",
        "webhookd/cloud/client.py",
        "waiting = [item for item in items if not item.answer.done()]\n        if self._closing or not waiting:",
        "waiting = list(items)\n        if not waiting:",
        _CLOUD + "test_a_stop_waits_for_none_of_the_requests_that_are_left",
    ),
    Guard(
        "a setting of AWS that is wrong kills no event",
        "webhookd/cloud/client.py",
        "if is_final and error.operation_name == self._channel.operation:",
        "if may_be_refusal(code):",
        _CLOUD + "test_a_refusal_of_a_service_is_explained_and_tried_again",
    ),
    Guard(
        "a reload refuses webhookd's own queue as a destination",
        "webhookd/settings/model.py",
        "destination_problems(before.model_copy(update=taken))",
        "()",
        "tests/unit/test_settings.py::test_a_reload_refuses_the_queue_that_webhookd_uses_until_a_restart",
    ),
    Guard(
        "a stop waits for no service that hangs",
        "webhookd/cloud/client.py",
        "                call.reschedule(0.0)\n",
        "                pass\n",
        _CLOUD + "test_a_service_that_hangs_delays_neither_a_stop_nor_another_destination",
    ),
    Guard(
        "an import that runs twice stores nothing twice",
        "sql/queries/imports.sql",
        "        id, notification_key, content_key, body_hash, webhookd.time_of(id),",
        "        id, gen_random_uuid(), NULL, body_hash, webhookd.time_of(id),",
        _IMPORT + "test_a_second_run_changes_nothing",
    ),
    Guard(
        "an import never takes an event that retention removed for a new one",
        "webhookd/operate/imports.py",
        "        oldest = min(line.received_at, notification.event_date or line.received_at)",
        "        oldest = line.received_at",
        _IMPORT + "test_a_bad_line_is_named_with_its_reason_and_stops_no_other",
    ),
    Guard(
        "an import refuses a webhook whose signature is wrong",
        "webhookd/operate/imports.py",
        '            raise BadLineError(f"{error}: add',
        '            return ""\n            raise BadLineError(f"{error}: add',
        _IMPORT + "test_a_bad_line_is_named_with_its_reason_and_stops_no_other",
    ),
    Guard(
        "retention counts imported history from its receipt, not from its import",
        "sql/queries/imports.sql",
        "    SELECT id, received_at + interval '1 microsecond',",
        "    SELECT id, clock_timestamp(),",
        _IMPORT + "test_history_is_removed_when_its_time_is_over_and_old_bodies_are_not_stored",
    ),
    Guard(
        "an import makes the partitions of the past",
        "webhookd/operate/imports.py",
        "                await make_past_partitions(self._database, parent, instants)\n",
        "",
        _IMPORT + "test_history_is_processed_at_the_time_of_its_receipt_with_its_exact_bytes",
    ),
    Guard(
        "the partition of a week that is over needs no lock that keeps out the receiver",
        "sql/migrations/0006_past_partitions.sql",
        " OR first + interval '168 hours' < now() - interval '1 day')",
        ")",
        _IMPORT + "test_history_needs_no_lock_that_keeps_out_the_receiver",
    ),
    Guard(
        "imported work waits behind fresh events",
        "sql/queries/imports.sql",
        "now() + make_interval(secs => :send_after), false FROM inserted",
        "now() + make_interval(secs => :send_after), true FROM inserted",
        _IMPORT + "test_work_is_processed_once_after_fresh_events_and_history_runs_no_handler",
    ),
    Guard(
        "a line without a signature is no work, and ends none, unless the operator says so",
        "webhookd/operate/imports.py",
        "            if self._needs_signature:",
        "            if False:",
        _IMPORT + "test_a_line_without_a_signature_is_no_work_and_ends_none_unless_the_operator_says_so",
    ),
    Guard(
        "imported work comes no faster than its rate",
        "webhookd/operate/imports.py",
        "            await asyncio.sleep(due - time.monotonic())\n",
        "",
        _IMPORT + "test_work_comes_no_faster_than_its_rate",
    ),
    Guard(
        "a replay leaves out history that another program has processed",
        "sql/queries/operator.sql",
        "SELECT a.actor = 'import' FROM",
        "SELECT false FROM",
        _IMPORT + "test_a_replay_leaves_out_history_whose_handlers_another_program_has_run_and_counts_it",
    ),
    Guard(
        "an import ends no work whose attempt has failed",
        "sql/queries/imports.sql",
        "status NOT IN ('dead', 'discarded', 'retrying')\n        AND attempts = 0",
        "status NOT IN ('dead', 'discarded')\n       ",
        _IMPORT + "test_work_that_another_program_has_done_ends_and_work_that_failed_stays",
    ),
    Guard(
        "history that was stored before a crash is folded by the second run",
        "webhookd/operate/imports.py",
        "            await self._fold(told, others)\n",
        "            await self._fold([] if known else told, [])\n",
        _IMPORT + "test_history_that_was_stored_and_not_folded_is_folded_by_the_second_run",
    ),
    Guard(
        "no text inside a body of a CSV file becomes a webhook",
        "webhookd/operate/import_lines.py",
        'the lines from here on are not read, so correct this line"\n                return',
        'the lines from here on are not read, so correct this line"\n                continue',
        "tests/unit/test_import_lines.py::test_no_text_inside_a_body_becomes_a_webhook_and_the_report_says_where_reading_ended",
    ),
    Guard(
        "a long line of an import takes bounded memory",
        "webhookd/operate/import_lines.py",
        "            yield raw if whole else None",
        "            yield raw + self._file.read()",
        "tests/unit/test_import_lines.py::test_a_line_without_an_end_takes_bounded_memory_and_only_in_json_the_lines_behind_it_are_read",
    ),
    Guard(
        "a trial of a user's tests leaves nothing in the database",
        "webhookd/store/rolled_back.py",
        "                await roll_back(transaction)\n",
        "                await transaction.commit()\n",
        f"{_TESTING}test_a_handler_runs_as_in_the_daemon_and_all_is_rolled_back",
    ),
    Guard(
        "trials on one database cannot deadlock",
        "webhookd/store/rolled_back.py",
        "            await self._wait_for_others()\n",
        "            pass\n",
        f"{_TESTING}test_trials_on_one_database_run_one_after_the_other",
    ),
    Guard(
        "a trial waits for another one whatever limits the role has",
        "webhookd/store/rolled_back.py",
        'lock="0", statement="0", local=True)\n',
        'lock=own["lock"], statement=own["statement"], local=True)\n',
        f"{_TESTING}test_a_trial_waits_and_handlers_may_pause_whatever_limits_the_role_has",
    ),
    Guard(
        "assert_once looks at all columns",
        "webhookd/store/rolled_back.py",
        "hashtextextended((t.*)::text, 0)",
        "hashtextextended(t::text, 0)",
        f"{_TESTING}test_all_columns_count_whatever_their_names",
    ),
    Guard(
        "a trial finds what only a commit refuses",
        "webhookd/testing/trial.py",
        "            await self.database.check_constraints()\n",
        "            pass\n",
        f"{_TESTING}test_what_only_the_commit_refuses_is_refused",
    ),
    Guard(
        "in a trial, handlers do not get the fold's lock timeout",
        "webhookd/store/rolled_back.py",
        '            if pool == "fold":\n',
        "            if False:\n",
        f"{_TESTING}test_a_handler_runs_as_in_the_daemon_and_all_is_rolled_back",
    ),
    Guard(
        "assert_once runs the handlers of a processed event again",
        "webhookd/testing/trial.py",
        "            await self._work(await self._reference(event))\n            _compare(",
        "            _compare(",
        f"{_TESTING}test_effects_that_happen_once_pass_and_others_are_named",
    ),
    Guard(
        "assert_once finds a handler that remembers a run that was undone",
        "webhookd/testing/trial.py",
        "        _compare(_numbers(once), _numbers(killed), ",
        "        _compare(_numbers(once), _numbers(once), ",
        f"{_TESTING}test_a_handler_that_remembers_a_run_that_was_undone_is_found",
    ),
    Guard(
        "an event for tests refuses a field that no event of its type has",
        "webhookd/testing/events.py",
        "        if keyword not in by_keyword:\n            raise",
        "        if keyword not in by_keyword:\n            continue\n            raise",
        "tests/unit/test_testing.py::test_what_no_event_has_is_refused_with_the_nearest",
    ),
    Guard(
        "an amount of an event for tests keeps its zeros",
        "webhookd/testing/events.py",
        "        return orjson.Fragment(text)  # keeps the zeros\n",
        "        return float(text)\n",
        "tests/unit/test_testing.py::test_an_amount_keeps_its_text",
    ),
    Guard(
        "a short Retry-After does not shorten the schedule of a delivery",
        "webhookd/deliver/answers.py",
        "return max(asked, ceiling(",
        "return asked or (ceiling(",
        "tests/unit/test_deliver.py::test_a_short_retry_after_does_not_shorten_the_schedule",
    ),
    Guard(
        "an accepted delivery is recorded however long PostgreSQL is away",
        "webhookd/deliver/sender.py",
        "async with asyncio.timeout(None if done else _RECORD):",
        "async with asyncio.timeout(_RECORD):",
        "tests/unit/test_deliver_records.py::"
        "test_an_accepted_delivery_ends_though_postgresql_is_away_for_longer_than_the_lease",
    ),
    Guard(
        "failures of deliveries leave the receiver its connections",
        "webhookd/store/deliveries.py",
        "        async with self._failing:\n",
        "        if True:\n",
        "tests/unit/test_deliver_records.py::test_few_failures_are_recorded_at_a_time",
    ),
    Guard(
        "destinations get nothing while handlers end at a shutdown",
        "webhookd/daemon.py",
        "await asyncio.gather(self.deliver.stop(), *workers)",
        "await asyncio.gather(*workers)",
        _DESTINATIONS + "test_nothing_is_sent_while_handlers_end_at_a_shutdown",
    ),
    Guard(
        "a body that breaks HTTP does not undo the status of an answer",
        "webhookd/deliver/client.py",
        "            response_class=Response,\n",
        "",
        _BROKEN + "test_the_status_counts_though_a_body_that_breaks_http_comes_in_the_same_packet",
    ),
    Guard(
        "an answer that breaks HTTP in a later packet holds no place until the timeout",
        "webhookd/deliver/response.py",
        "self._body.set_exception(aiohttp.ClientPayloadError(type(error).__name__))",
        "pass",
        _BROKEN + "test_the_status_counts_at_once_however_the_packets_of_a_broken_answer_are_cut",
    ),
    Guard(
        "while a circuit is open, only probes are sent",
        "sql/queries/deliveries.sql",
        "+ interval '13 hours' THEN 1\n        ELSE 0\n",
        "+ interval '13 hours' THEN 1\n        ELSE 8\n",
        _CIRCUITS + "test_while_the_circuit_is_open_one_probe_goes_at_a_time_and_the_rest_is_not_touched",
    ),
    Guard(
        "two replicas never probe at the same time",
        "sql/queries/deliveries.sql",
        "SET probe_at = CASE WHEN opened_at IS NULL THEN probe_at ELSE now() + make_interval(secs => :lease) END,",
        "SET probe_at = probe_at + make_interval(secs => 0 * :lease),",
        _CIRCUITS + "test_while_the_circuit_is_open_one_probe_goes_at_a_time_and_the_rest_is_not_touched",
    ),
    Guard(
        "failed probes spend no attempts",
        "sql/queries/deliveries.sql",
        "AND NOT :dead THEN 0 ELSE 1 END",
        "AND NOT :dead THEN 1 ELSE 1 END",
        _CIRCUITS + "test_failed_probes_spend_no_attempts",
    ),
    Guard(
        "a failed probe is never the last attempt of its delivery",
        "webhookd/deliver/sender.py",
        "most = attempt + 1 if free else settings.max_attempts",
        "most = settings.max_attempts",
        "tests/unit/test_deliver_records.py::test_a_failed_probe_is_never_the_last_attempt",
    ),
    Guard(
        "a probe goes though no delivery is due",
        "sql/queries/deliveries.sql",
        "CASE WHEN gate.probe THEN 'infinity' ELSE now() END AS reach",
        "now() AS reach",
        _CIRCUITS + "test_a_probe_goes_though_no_delivery_is_due",
    ),
    Guard(
        "events that a destination never accepts do not keep its circuit open",
        "sql/queries/deliveries.sql",
        "ORDER BY chosen.probe AND event_id = ANY(chosen.tried), chosen.probe",
        "ORDER BY chosen.probe",
        _CIRCUITS + "test_events_that_the_destination_never_accepts_do_not_keep_the_circuit_open",
    ),
    Guard(
        "senders that take one delivery at a time starve no lane",
        "sql/queries/deliveries.sql",
        "CASE WHEN NOT chosen.probe THEN turn END, random()",
        "CASE WHEN NOT chosen.probe THEN turn END",
        _CIRCUITS + "test_senders_that_take_one_at_a_time_share_their_turns_among_the_lanes",
    ),
    Guard(
        "a circuit survives a clock that is put back",
        "sql/queries/deliveries.sql",
        "closed_at BETWEEN now() - interval '1 minute' AND now())\n    FOR UPDATE SKIP LOCKED",
        "closed_at > now() - interval '1 minute')\n    FOR UPDATE SKIP LOCKED",
        _CIRCUITS + "test_the_circuit_survives_a_clock_that_is_put_back",
    ),
    Guard(
        "an operator's resume sends no second probe beside one",
        "sql/queries/deliveries.sql",
        "CASE WHEN probing THEN probe_at ELSE now() END",
        "now()",
        _CIRCUITS + "test_an_open_circuit_probes_at_once_when_an_operator_resumes_the_destination",
    ),
    Guard(
        "one event that always fails opens no circuit",
        "sql/queries/deliveries.sql",
        "FROM (SELECT excluded.failed <@ c.failed AS known) AS k",
        "FROM (SELECT false AS known) AS k",
        _CIRCUITS + "test_one_event_that_always_fails_opens_no_circuit",
    ),
    Guard(
        "the wait between two probes grows",
        "sql/queries/deliveries.sql",
        ":first::float8 * 2 ^ least(n.probes, 20)",
        ":first::float8 * 2 ^ least(n.probes * 0, 20)",
        _CIRCUITS + "test_the_wait_between_probes_doubles_up_to_five_minutes_and_keeps_retry_after",
    ),
    Guard(
        "an accepted probe closes the circuit",
        "sql/queries/deliveries.sql",
        "    WHERE destination = ANY(ARRAY(SELECT destination FROM tripped))",
        "    WHERE false AND destination = ANY(ARRAY(SELECT destination FROM tripped))",
        _CIRCUITS + "test_an_accepted_probe_closes_the_circuit_and_the_rate_then_grows",
    ),
    Guard(
        "what waited for a destination is sent slowly at first",
        "sql/queries/deliveries.sql",
        "THEN greatest(floor(10 * 2 ^",
        "THEN greatest(floor(1000 * 2 ^",
        _CIRCUITS + "test_an_accepted_probe_closes_the_circuit_and_the_rate_then_grows",
    ),
    Guard(
        "fresh events keep their share while a backlog is sent",
        "sql/queries/deliveries.sql",
        "        AND EXISTS (SELECT FROM fresh WHERE due <= now() - interval '1 minute')",
        "        AND false",
        _CIRCUITS + "test_what_waited_retries_and_fresh_events_take_turns",
    ),
    Guard(
        "an answer about one event is no failure of its destination",
        "webhookd/deliver/answers.py",
        "    return status is None or status >= 500 or status in _OVERLOADED",
        "    return status is None or status >= 400",
        "tests/unit/test_deliver.py::test_an_answer_about_one_event_is_no_failure_of_the_destination",
    ),
    Guard(
        "new events cost no statement while a circuit is open",
        "webhookd/deliver/sender.py",
        "if free <= 0 or self.held:",
        "if free <= 0:",
        "tests/integration/test_failing_destinations.py::test_a_new_event_costs_no_statement_while_the_circuit_is_open",
    ),
    Guard(
        "a sender holds a bounded number of bytes",
        "webhookd/deliver/sender.py",
        "free = min(self.destination.places - len(self._tasks), self._room())",
        "free = self.destination.places - len(self._tasks)",
        "tests/unit/test_deliver_records.py::test_a_sender_holds_a_bounded_number_of_bytes",
    ),
)


_HEAD = "| guard | in | test that fails without it |"


def table() -> str:
    """Returns the table of guards for the README."""
    rows = [_HEAD, "|---|---|---|"]
    rows += [f"| {guard.name} | `{guard.file}` | `{guard.test}` |" for guard in GUARDS]
    return "\n".join(rows) + "\n"


def broken_copy(guard: Guard, place: Path) -> None:
    """Copies the code to `place`, and takes `guard` out of the copy."""
    for name in ("webhookd", "sql", "tests", "deploy"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    file = place / guard.file
    text = file.read_text()
    if text.count(guard.before) < 1:
        raise SystemExit(f"{guard.name}: {guard.file} no longer holds what is to be taken out")
    file.write_text(text.replace(guard.before, guard.after, 1))


def is_missed(guard: Guard) -> bool:
    """Returns whether the guard's test runs and fails without the guard."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "copy"
        place.mkdir()
        broken_copy(guard, place)
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--basetemp={folder}/pytest", guard.test],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(place)},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode not in (0, 1):
            out.print(run.stdout[-2000:], run.stderr[-2000:], markup=False)
        return run.returncode == 1 and "1 failed" in run.stdout


def main() -> int:
    """Tries the guards; prints a line for each. `--table` writes the README's list anew instead."""
    words = sys.argv[1:]
    if words == ["--table"]:
        README.write_text(README.read_text().partition(_HEAD)[0] + table())
        return 0
    chosen = [guard for guard in GUARDS if not words or any(word in guard.name for word in words)]
    survivors = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done, (guard, missed) in enumerate(zip(chosen, threads.map(is_missed, chosen), strict=True), start=1):
            survivors += not missed
            verdict = "fails, as it must" if missed else "PASSES ALL THE SAME"
            line = f"{done}/{len(chosen)} {verdict}: {guard.test}, without: {guard.name}"
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
