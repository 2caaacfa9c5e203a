"""The cases in which spin searches the models, and the guards that are removed one at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

ENDS = "ends"  # properties of time (LTL under weak fairness); all other names belong to assertions
AGREES = "agrees"


@dataclass(slots=True, frozen=True)
class Case:
    """A model with a bound. `claim` names a property of time; without it, the search checks the assertions."""

    model: str
    defines: str
    claim: str = ""
    large: bool = False  # the case has so many states that compiling with optimization pays


@dataclass(slots=True, frozen=True)
class Guard:
    """A guard of a model. Without it, `case` must break `invariant`."""

    name: str
    says: str
    case: Case
    invariant: str


def _flow(defines: str, claim: str = "") -> Case:
    return Case("flow.pml", defines, claim)


RECEIVING = _flow("FAULTS=1 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0 DELIVERIES=2")
FAILING = _flow("FAULTS=0 OPERATIONS=0 SUSPECT=9 NO_HOT_PATH")
FAULTY = _flow("FAULTS=2 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0")
BUSY = _flow("FAULTS=1 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0 NO_HOT_PATH BUSY")
STOPPED = _flow("FAULTS=3 OPERATIONS=0 HANDLER_FAILS=0 NO_HOT_PATH")
DISCARDED = _flow("FAULTS=0 OPERATIONS=1 SUSPECT=9 HANDLER_FAILS=0 PERMANENT=1 NO_HOT_PATH")
WITHOUT_HANDLERS = _flow("FAULTS=2 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0 NO_HANDLERS")
KILLS_AND_FAILS = _flow("FAULTS=0 AWAY=1 OPERATIONS=0 SUSPECT=0 HANDLER_FAILS=0 NO_HOT_PATH POISON FAILS_BETWEEN")
OWED = _flow("FAULTS=0 AWAY=2 OPERATIONS=0 SUSPECT=0 HANDLER_FAILS=0 NO_HOT_PATH")
STRANGER = _flow("FAULTS=0 STRANGER=1 OPERATIONS=0 SUSPECT=9 NO_HOT_PATH")
SUSPECTS = _flow("FAULTS=2 OPERATIONS=0 HANDLER_FAILS=0 NO_HOT_PATH")
CONSOLE = _flow("FAULTS=1 OPERATIONS=1 SUSPECT=9 HANDLER_FAILS=0 PERMANENT=1 NO_HOT_PATH CONSOLE")
FAILED_IS_FINAL = _flow("FAULTS=1 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0 PERMANENT=1 NO_HOT_PATH")
REDRIVEN = _flow("FAULTS=0 OPERATIONS=1 SUSPECT=9 NO_HOT_PATH")

FAILING_ENDS = _flow("FAULTS=0 OPERATIONS=0 SUSPECT=9 NO_HOT_PATH", ENDS)
FAULTY_ENDS = _flow("FAULTS=1 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0 NO_HOT_PATH", ENDS)
REFUSED_ENDS = _flow("FAULTS=0 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0 NO_HOT_PATH REFUSED_FOLD", ENDS)
POISON_ENDS = _flow("FAULTS=0 OPERATIONS=0 HANDLER_FAILS=0 NO_HOT_PATH POISON", ENDS)
POSTGRESQL_POISON_ENDS = _flow("FAULTS=0 OPERATIONS=0 HANDLER_FAILS=0 NO_HOT_PATH POISON KILLS_POSTGRESQL", ENDS)
DEAD_AGREES = _flow("FAULTS=1 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0 PERMANENT=1 NO_HOT_PATH", AGREES)
DISCARDED_AGREES = _flow("FAULTS=0 OPERATIONS=1 SUSPECT=9 HANDLER_FAILS=0 PERMANENT=1 NO_HOT_PATH", AGREES)

MOVED_AGREES = _flow("FAULTS=1 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0 NO_HOT_PATH", AGREES)

FRESH = Case("lanes.pml", "HANG_ALL", "fresh")
REST_IS_TRIED = Case("lanes.pml", "HANG", "rest_is_tried")
REST_MOVES = Case("lanes.pml", "HANG_ALL LOSES", "rest_moves")
PUT_BACK = Case("bundles.pml", "")
PUT_BACK_AGREES = Case("bundles.pml", "", AGREES)
FOLD_ENDS = Case("bundles.pml", "FOLD", ENDS)
NEIGHBOURS = Case("suspects.pml", "")
NEIGHBOURS_COUNTS = Case("suspects.pml", "COUNTS")
NEIGHBOURS_END = Case("suspects.pml", "", ENDS)

SHORT = (
    RECEIVING,
    FAULTY,
    BUSY,
    WITHOUT_HANDLERS,
    SUSPECTS,
    KILLS_AND_FAILS,
    OWED,
    STRANGER,
    FAILED_IS_FINAL,
    DISCARDED,
    FAULTY_ENDS,
    MOVED_AGREES,
    FRESH,
    REST_IS_TRIED,
    REST_MOVES,
    PUT_BACK,
    PUT_BACK_AGREES,
    FOLD_ENDS,
    NEIGHBOURS,
    NEIGHBOURS_COUNTS,
    NEIGHBOURS_END,
)
LONG = tuple(
    replace(case, large=True)
    for case in (
        STOPPED,
        FAILING,
        CONSOLE,
        REDRIVEN,
        _flow("FAULTS=2 OPERATIONS=0 NO_HOT_PATH"),
        _flow("FAULTS=1 AWAY=2 OPERATIONS=0 SUSPECT=0 HANDLER_FAILS=0 NO_HOT_PATH"),
        _flow("FAULTS=0 AWAY=1 OPERATIONS=0 SUSPECT=0 NO_HOT_PATH"),
        _flow("FAULTS=0 AWAY=1 OPERATIONS=1 SUSPECT=0 HANDLER_FAILS=0 PERMANENT=1 NO_HOT_PATH"),
        _flow("FAULTS=0 STRANGER=2 OPERATIONS=0 SUSPECT=9 NO_HOT_PATH"),
        _flow("FAULTS=1 OPERATIONS=0 SUSPECT=9 NO_HOT_PATH RETURNS"),
        _flow("FAULTS=1 OPERATIONS=0 SUSPECT=9"),
        _flow("FAULTS=1 OPERATIONS=0 NO_HOT_PATH SUSPECT=9 SPLIT_STEPS"),
        _flow("FAULTS=0 OPERATIONS=0"),
        _flow("FAULTS=0 OPERATIONS=1 NO_HOT_PATH"),
        FAILING_ENDS,
        REFUSED_ENDS,
        POISON_ENDS,
        POSTGRESQL_POISON_ENDS,
        _flow("FAULTS=0 AWAY=1 OPERATIONS=0 HANDLER_FAILS=0 NO_HOT_PATH POISON", ENDS),
        _flow("FAULTS=1 OPERATIONS=0 SUSPECT=9 HANDLER_FAILS=0", ENDS),
        DEAD_AGREES,
        DISCARDED_AGREES,
    )
)

_NO_NEEDLESS_WAIT = "waits_for_a_resend_although_nothing_is_lost"
_TRIED = "dead_without_being_tried"
_ASKED = "woken_without_being_asked"
_ONCE = "an_effect_is_doubled"
_NOT_DUE = "tried_before_it_was_due"
_KILL = "a_kill_is_not_counted"
_AGAIN = "what_waits_is_sent_again"
_STUCK = "stuck_at_the_end"
_DISAGREES = "disagrees_at_the_end"
_200 = "a_200_is_lost"
_NEIGHBOUR = "dies_of_its_neighbour"
_ONE_COUNT = "more_than_one_count_of_others"

GUARDS = (
    Guard("COMMIT_BEFORE_200", "200 only after the commit", RECEIVING, _200),
    Guard("COMMIT_BEFORE_MARK", "Redis is marked only after the commit", RECEIVING, _200),
    Guard("LEDGER_ONCE", "a second delivery of a webhook makes no second work", RECEIVING, _ONCE),
    Guard("SWEEP", "the sweeper sends the events that the hot path did not send", FAULTY, _STUCK),
    Guard("RESEND", "an event whose message is lost is sent again", FAULTY, _STUCK),
    Guard("RESEND_CAP", "a busy queue does not stop resends for ever", BUSY, _STUCK),
    Guard("DRAINED_MARK", "an event that waits in the queue is not sent again", FAULTY, _AGAIN),
    Guard("POLL_BEGAN_AFTER", "a poll that was under way when work was sent is no evidence about that work", FAULTY, _AGAIN),
    Guard("SENT_DUE", "work becomes `queued` only if its `due` is the same as when it was chosen", FAILING, _NO_NEEDLESS_WAIT),
    Guard(
        "ATTEMPT_IN_MESSAGE", "a message names its attempt, so that a lease does not hide a retry", FAILING, _NO_NEEDLESS_WAIT
    ),
    Guard("DELETE_AFTER_COMMIT", "a message is deleted only after its work is committed", FAULTY, _NO_NEEDLESS_WAIT),
    Guard("KEEP_WHEN_BUSY", "a message whose work was busy stays", FAULTY, _NO_NEEDLESS_WAIT),
    Guard("ROW_LOCK", "one worker at a time has an event, and no worker has an event that has ended", FAULTY, _ONCE),
    Guard("ONE_TRANSACTION", "effects and the end of the work commit in one transaction", FAULTY, _ONCE),
    Guard("FOLD_FIRST", "the timeline is folded before the handlers run", FAULTY, "processed_without_the_timeline"),
    Guard("FOLD_FAILURE_COUNTS", "a fold that PostgreSQL refuses is a failed attempt", REFUSED_ENDS, ENDS),
    Guard("ATTEMPT_LIMIT", "attempts are bounded", FAILING_ENDS, ENDS),
    Guard("FAIL_CAS", "a failure counts in the redrive in which it was tried", REDRIVEN, _TRIED),
    Guard("BEGUN", "attempts that kill their worker are counted", POISON_ENDS, ENDS),
    Guard("SUSPECT_BY_SENDS", "an event that PostgreSQL sent often is a suspect, whatever SQS counts", POISON_ENDS, ENDS),
    Guard("LOST_COUNTS", "attempts that end PostgreSQL are counted", POSTGRESQL_POISON_ENDS, ENDS),
    Guard("LOCK_BEFORE_BEGUN", "an attempt is counted only under its lock", SUSPECTS, _TRIED),
    Guard("TAKE_BACK", "an attempt that is stopped takes its count back", STOPPED, _TRIED),
    Guard("TAKE_BACK_BEFORE_UNLOCK", "an attempt takes its count back before it releases its lock", STOPPED, _TRIED),
    Guard("OWED", "a count that could not be taken back is taken back later", OWED, _TRIED),
    Guard(
        "OWED_OF_ITS_ATTEMPT",
        "a count that is taken back late is not subtracted from the counts of another attempt",
        KILLS_AND_FAILS,
        _KILL,
    ),
    Guard("RETRY_IS_LEASED", "a retry that no sweeper has taken has no message, whatever a message says", STRANGER, _NOT_DUE),
    Guard("VOID_COUNTS", "a failed attempt or a redrive makes the counts void", KILLS_AND_FAILS, _TRIED),
    Guard("PUT_BACK", "an event whose message SQS moved to the dead-letter queue is put back", FAULTY, _TRIED),
    Guard(
        "PUT_BACK_MOVES_DUE",
        "putting a retry back changes its `due`, so a sweeper's earlier choice no longer matches",
        FAILING,
        _NO_NEEDLESS_WAIT,
    ),
    Guard("KEEP_RAW_WHILE_LOCKED", "a message that SQS moved stays while a worker has its work", FAULTY, _NO_NEEDLESS_WAIT),
    Guard("PUT_BACK_WHERE_OPEN", "only work that has not ended is put back", FAILED_IS_FINAL, _ASKED),
    Guard("DEATH_MATCH", "a copy wakes its own death of an event, and no later death", CONSOLE, _ASKED),
    Guard("PROOF", "a copy without its proof wakes nothing", CONSOLE, _ASKED),
    Guard("COPY_OWED", "a dead event without a copy gets a copy", FAILED_IS_FINAL, _DISAGREES),
    Guard("OWE_LOST_COPIES", "a copy that the queue lost is sent again", FAILED_IS_FINAL, _DISAGREES),
    Guard("ONE_COPY", "a second copy is removed", FAILED_IS_FINAL, _DISAGREES),
    Guard("REMOVE_RAW", "a message whose work was put back leaves the dead-letter queue", MOVED_AGREES, AGREES),
    Guard("REMOVE_FALSE_COPIES", "a copy of an event that is not dead is removed", DISCARDED, _DISAGREES),
    Guard("FRESH_FIRST", "the sweeper serves fresh work first", FRESH, "fresh"),
    Guard("REST_ROOM", "first retries, and work that was redriven or put back, have a quarter of the turns", FRESH, "fresh"),
    Guard("LATER_ROOM", "later retries have a quarter of the turns", FRESH, "fresh"),
    Guard(
        "LANES_APART", "later retries do not use the quarter of the work that was tried once", REST_IS_TRIED, "rest_is_tried"
    ),
    Guard("FADE", "the turns of a process that has died count for a minute only", FRESH, "fresh"),
    Guard("IN_HAND_COUNTS", "work in hand takes room (assumed: README.md says when it does not)", FRESH, "fresh"),
    Guard("THREE_TURNS", "the workers have three turns at least (assumed)", FRESH, "fresh"),
    Guard("RESEND_WITHOUT_ROOM", "lost work needs no room", REST_MOVES, "rest_moves"),
    Guard("PUT_BACK_WHOLE", "a message that SQS moved is put back whole, or stays", PUT_BACK, _NO_NEEDLESS_WAIT),
    Guard("FOLD_ALONE", "an event that was received too often is folded alone", FOLD_ENDS, ENDS),
    Guard("SUSPECT_ALONE", "events that were in hand at a kill are tried one at a time", NEIGHBOURS_COUNTS, _ONE_COUNT),
    Guard("OTHERS_WAIT", "while an event is tried alone, nothing else is tried", NEIGHBOURS, _NEIGHBOUR),
)
