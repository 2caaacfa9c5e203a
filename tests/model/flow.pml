/* The flow of one piece of work: receiver, relay, two workers, dead-letter reader, operator, and the faults around them.
 *
 * Each atomic step is one transaction in PostgreSQL or one call to SQS. Time is chance: work may be due at any moment, a message may be received
 * again while it is in hand, and any step may take any time. Faults (a crash, a loss, a refusal, a lie of Redis) are counted: FAULTS in all.
 * Redis's claims are left out: they only forbid steps that PostgreSQL must survive anyway. README.md says how to run this model.
 *
 * A case defines only the parts that it includes: DELIVERIES (the receiver; how often the provider delivers), CONSOLE (copies come back to the main
 * queue), REFUSED_FOLD (PostgreSQL may refuse an event's facts), POISON (the event kills its worker each time; with FAILS_BETWEEN, its handler fails
 * once; with KILLS_POSTGRESQL, the event ends PostgreSQL instead), BUSY (no poll is ever empty), NO_HANDLERS (the fold ends the event), RETURNS (a send
 * may fail, and its lease is given back).
 *
 * -DNO_<GUARD> removes a guard; cases.py names the invariant that must then break.
 */

#ifndef FAULTS
#define FAULTS 1
#endif
#ifndef OPERATIONS
#define OPERATIONS 1      /* redrives, discards and redrives from the console, in all */
#endif
#ifndef AWAY
#define AWAY 0            /* how often PostgreSQL goes away during a counted attempt */
#endif
#ifndef STRANGER
#define STRANGER 0        /* messages from a stranger who may write to the queue; they look like ours */
#endif
#ifndef SLOTS
#define SLOTS 2           /* messages that fit into the queue: a sender waits for room */
#endif
#ifndef PERMANENT
#define PERMANENT 0       /* whether a handler may fail finally */
#endif
#ifndef HANDLER_FAILS
#define HANDLER_FAILS 1   /* whether a handler may fail */
#endif

#define MAX_ATTEMPTS 2
#ifndef SUSPECT
#define SUSPECT 1         /* a message that was received more often may kill its worker: a suspect */
#endif
#ifndef SUSPECT_SENDS
#define SUSPECT_SENDS 2   /* work that was sent so often, with no ended attempt, is a suspect, too */
#endif
#ifndef MAX_RECEIVES
#define MAX_RECEIVES 2    /* after so many receives, SQS moves a message to the dead-letter queue */
#endif

/* The status of the work. NONE: no row. */
#define NONE 0
#define RECEIVED 1
#define QUEUED 2
#define RETRYING 3
#define DEAD 4
#define DISCARDED 5

#define HOT_PATH 0
#define SWEEPER 1

/* Kinds of message in the main queue. FORGED: a copy without its proof. STRANGE: a stranger's message that looks like ours. COPY + n: the copy of the
 * death in epoch n, moved there from the console. */
#define PLAIN 0
#define FORGED 1
#define STRANGE 2
#define COPY 3

#define NOWHERE SLOTS     /* the slot of a worker that has no message, or whose message is deleted */
#define EPOCHS (OPERATIONS + 1)

/* PostgreSQL */
bool ledger, folded, processed, copy_sent;
byte status, attempts, sends, epoch;   /* sends: since the last attempt that ended; epoch stands for redriven_at */
byte begun;                            /* attempts that have begun and not ended */
byte drained;                          /* since the record of the send: an empty poll has begun (1), and was reported (2) */
byte row_lock;                         /* the worker that holds the lock; 0: none */
/* Redis */
bool seen;
/* The relay: whether the row is unchanged since it was chosen. Every change of open work moves `due`, so `due` is the row's version. */
bool current[2];
/* SQS: the number of receives + 1 (0: empty slot), the kind, the number of attempts that the message names */
byte received[SLOTS], kind[SLOTS], sent_for[SLOTS];
byte raw, copies[EPOCHS];
byte slot[3];                          /* the slot of workers 1 and 2 */
/* Processes */
byte owed;                             /* counts of attempts that ended while PostgreSQL was away */
/* The world */
byte faults = FAULTS, away = AWAY, strange = STRANGER, operations = OPERATIONS;

/* Only the invariants read these. */
bool answered, lost, permanent, was_due, unrecorded;  /* was_due: due since the last failure; unrecorded: the last send has no record */
byte effects, failures, kills, asked;  /* failures and kills: since the last redrive, since the last attempt that ended */

#define open (status == RECEIVED || status == QUEUED || status == RETRYING)
#define given_up (status == DEAD || status == DISCARDED)

/* Invariants. Each is a separate constant, so that spin's report names the invariant. */
bit a_200_is_lost = 1, an_effect_is_doubled = 1, processed_without_the_timeline = 1, dead_without_being_tried = 1,
    woken_without_being_asked = 1, waits_for_a_resend_although_nothing_is_lost = 1, what_waits_is_sent_again = 1,
    tried_before_it_was_due = 1, a_kill_is_not_counted = 1, stuck_at_the_end = 1, disagrees_at_the_end = 1;

#define no_message (raw == 0 && !(received[0] > 0 && kind[0] == PLAIN) && !(received[1] > 0 && kind[1] == PLAIN))
#define never_received ((received[0] == 1 && kind[0] == PLAIN) || (received[1] == 1 && kind[1] == PLAIN))
#define as_it_is(n) (copies[n] == (status == DEAD && epoch == n))
#if OPERATIONS == 0
#define agree (raw == 0 && as_it_is(0))
#elif OPERATIONS == 1
#define agree (raw == 0 && as_it_is(0) && as_it_is(1))
#else
#define agree (raw == 0 && as_it_is(0) && as_it_is(1) && as_it_is(2))
#endif

ltl ends { <>[] (!open) }
ltl agrees { <>[] agree }

/* Before each step, its process may die instead: killed after the previous step, at the last moment. */
inline or_die() { if :: skip :: faults > 0 -> faults--; goto died fi }

/* Every change of status. Dead or discarded work may live again only at an operator's request. */
inline become(new) {
    if :: given_up && new != DEAD && new != DISCARDED -> assert(asked > 0 || !woken_without_being_asked); asked = (asked > 0 -> asked - 1 : 0)
       :: else fi;
    status = new; current[HOT_PATH] = false; current[SWEEPER] = false; drained = 0
}

/* The reasons for a death. A count that is still owed is one too many only until it is taken back. */
#define IS_TRIED (failures >= MAX_ATTEMPTS || permanent || kills + owed >= MAX_ATTEMPTS)

inline die() { become(DEAD); copy_sent = false }

/* A count belongs to a number of attempts and to a redrive: a failed attempt or another redrive makes it void. */
inline make_counts_void() {
#ifndef NO_VOID_COUNTS
    begun = 0;
#endif
#ifndef NO_OWED_OF_ITS_ATTEMPT
    owed = 0  /* an owed count names its attempt */
#else
    skip
#endif
}

inline wake() {
    become(RECEIVED); attempts = 0; sends = 0; epoch++; copy_sent = false; make_counts_void();
    failures = 0; kills = 0; permanent = false
}

byte gone;
inline clear(i) {  /* the last message moves to the empty slot, so that equal queues are one state */
    gone = i;
    if :: slot[1] == gone -> slot[1] = NOWHERE :: else fi;
    if :: slot[2] == gone -> slot[2] = NOWHERE :: else fi;
    if
    :: gone == 0 && received[1] > 0 ->
        received[0] = received[1]; kind[0] = kind[1]; sent_for[0] = sent_for[1];
        if :: slot[1] == 1 -> slot[1] = 0 :: else fi;
        if :: slot[2] == 1 -> slot[2] = 0 :: else fi;
        gone = 1
    :: else
    fi;
    received[gone] = 0; kind[gone] = 0; sent_for[gone] = 0; gone = 0
}

inline put(what, count) {
    if :: received[0] == 0 -> received[0] = 1; kind[0] = what; sent_for[0] = count
       :: received[0] > 0 && received[1] == 0 -> received[1] = 1; kind[1] = what; sent_for[1] = count fi
}
#define room (received[0] == 0 || received[1] == 0)

inline take_back_one() { begun = (begun > 0 -> begun - 1 : 0) }

/* ---- receiver ---- */

#ifdef DELIVERIES
active proctype Receiver() {
    byte deliveries = 0;
died:
next:
    do
    :: deliveries < DELIVERIES ->
        atomic {  /* code: receive.look_up */
            deliveries++;
            if
            :: seen -> answered = true; assert(ledger || !a_200_is_lost); goto next
            :: true  /* the webhook is unknown, or Redis has forgotten it or is away */
            fi
        }
#ifdef NO_COMMIT_BEFORE_MARK
        atomic { or_die(); seen = true }
#endif
#ifdef NO_COMMIT_BEFORE_200
        atomic { or_die(); answered = true }
#endif
        atomic {  /* code: receive.commit */
            or_die();
#ifndef NO_LEDGER_ONCE
            if :: !ledger -> ledger = true; status = RECEIVED; current[HOT_PATH] = true :: else fi
#else
            if :: status == NONE -> ledger = true; status = RECEIVED; current[HOT_PATH] = true :: else fi
#endif
        }
        atomic { or_die(); answered = true }  /* code: receive.answer */
        atomic { or_die(); seen = true }      /* code: receive.mark_seen */
    :: else -> break
    od
}
#endif

/* ---- relay ---- */

/* Records a send: the row is `queued` if its `due` has not changed since it was chosen. The hot path records some seconds later, the sweeper at once. */
inline mark_sent(sender) {
    if
#ifdef NO_SENT_DUE
    :: open && row_lock == 0 ->
#else
    :: current[sender] && row_lock == 0 ->  /* SKIP LOCKED: a record does not wait for work in hand */
#endif
        become(QUEUED); unrecorded = false; sends = (sends == 0 -> 1 : sends)
    :: else
    fi;
    current[sender] = false
}

inline choose() {
    current[HOT_PATH] = false; current[SWEEPER] = true; was_attempts = attempts; was_due = true;
    if
    :: sends < (SUSPECT < 9 -> SUSPECT_SENDS : 1) -> sends++
#ifdef RETURNS
        ; one_more_send = true
#endif
    :: else
    fi
}

#ifndef NO_HOT_PATH
active proctype HotPath() {
    ledger;
    atomic { or_die(); room -> put(PLAIN, 0); unrecorded = true }   /* code: relay.hot_send */
    atomic { or_die(); mark_sent(HOT_PATH) }       /* code: relay.mark_sent */
died:
    skip
}
#endif

active proctype Sweeper() {
    byte was_attempts;
#ifdef RETURNS
    bool one_more_send;
#endif
died:
end:
    do
#ifndef NO_SWEEP
    :: atomic {  /* code: relay.lease */
        (status == RECEIVED || status == RETRYING) && row_lock == 0 -> choose() }
#else
    :: atomic { false -> skip }
#endif
        goto send
#ifndef NO_RESEND
    :: atomic {  /* code: relay.lease_lost; its other half is the pollers' report, code: poll.report */
#if defined(NO_DRAINED_MARK) || (defined(BUSY) && !defined(NO_RESEND_CAP))
        status == QUEUED && row_lock == 0 ->                     /* BUSY: the cap: the work was sent very long ago */
#elif defined(BUSY)
        false ->                                /* a busy queue has no empty poll, and so sets no mark */
#else
        status == QUEUED && row_lock == 0 && drained == 2 ->  /* the message was received at least once, or is lost */
#endif
#ifndef BUSY
        assert(!never_received || unrecorded || !what_waits_is_sent_again);
#endif
        choose() }
        goto send
#endif
    od;
send:
    atomic { or_die(); room -> put(PLAIN, was_attempts); unrecorded = true }   /* code: relay.send */
#ifdef RETURNS
    atomic {
        if
        :: true
        :: faults > 0 -> faults--;  /* the queue's answer was lost or never sent: code: relay.return_lease */
            if
            :: current[SWEEPER] && row_lock == 0 -> current[SWEEPER] = false; sends = (one_more_send -> sends - 1 : sends)
            :: else
            fi;
            was_attempts = 0; one_more_send = false; goto died
        fi
    }
#endif
    atomic { or_die(); mark_sent(SWEEPER);  /* code: relay.mark_sent */
             was_attempts = 0;
#ifdef RETURNS
             one_more_send = false;
#endif
             goto died }
}

/* ---- the loops of the processes ---- */

#ifdef NO_POLL_BEGAN_AFTER
bool polled;
#endif

active proctype Loops() {
end:
    do
#ifndef BUSY
#ifndef NO_POLL_BEGAN_AFTER
    :: atomic { status == QUEUED && drained == 0 && !never_received -> drained = 1 }  /* a poll begins and finds nothing: code: poll.begin */
    :: atomic { drained == 1 -> drained = 2 }                                         /* code: poll.report */
#else
    :: atomic { !polled && status == QUEUED && drained == 0 && !never_received -> polled = true }
    :: atomic { polled -> polled = false; drained = (status == QUEUED -> 2 : 0) }     /* as if the poll had begun when it is reported */
#endif
#endif
    :: atomic { owed > 0 -> owed--; take_back_one() }                                 /* code: work.take_back_owed */
    :: atomic { owed > 0 && faults > 0 -> faults--;  /* the process that owes the count is killed: the count stays as a kill */
                kills = (kills + owed > MAX_ATTEMPTS -> MAX_ATTEMPTS : kills + owed); owed = 0 }
    od
}

/* ---- SQS ---- */

active proctype Queue() {
    byte i;
end:
    do
    :: atomic {
        if :: raw < SLOTS && received[0] > MAX_RECEIVES -> i = 0 :: raw < SLOTS && received[1] > MAX_RECEIVES -> i = 1 fi;
        if
        :: kind[i] == PLAIN || kind[i] == STRANGE -> raw++
        :: kind[i] >= COPY -> copies[kind[i] - COPY]++
        :: kind[i] == FORGED  /* a stranger's message; the reader leaves unknown messages alone */
        fi;
        clear(i); i = 0
    }
    :: atomic { faults > 0 && received[0] > 0 -> faults--; lost = true; clear(0) }
    :: atomic { faults > 0 && received[1] > 0 -> faults--; lost = true; clear(1) }
    :: atomic { faults > 0 && raw > 0 -> faults--; lost = true; raw-- }
    :: atomic { faults > 0 && copies[epoch] > 0 -> faults--; copies[epoch]-- }
    od
}

/* ---- workers ---- */

#define mine(lock) (lock == id)

inline let_go() { row_lock = (mine(row_lock) -> 0 : row_lock) }

/* The worker was killed, or lost its connection: the lock is released, and the count of its attempt stays. */
inline fall() {
    kills = (counted && kills < MAX_ATTEMPTS -> kills + 1 : kills); counted = false;
    assert(begun >= kills || !mine(row_lock) || !a_kill_is_not_counted);
    let_go()
}

inline forget() {
    slot[id] = NOWHERE; counted = false; was_attempts = 0; was_epoch = 0; for_attempts = 0; fatal = false; failing = false; suspect = false
}

/* No attempt ended: the message stays in the queue, and is received again. */
inline let_come_back() {  /* code: work.come_back */
    let_go();
#ifdef NO_KEEP_WHEN_BUSY
    if :: slot[id] != NOWHERE -> clear(slot[id]) :: else fi;
#endif
    forget()
}

/* PostgreSQL does not answer when the attempt has ended: the lock is released with the session, and the count is taken back later. */
inline owe() {  /* code: work.owe */
    counted = false;
#ifndef NO_OWED
    owed++;
#endif
    let_come_back()
}

#define one_more(count) count = (count < MAX_ATTEMPTS -> count + 1 : count)

/* The session ends while handlers run, perhaps because of them: the count stays, since the failure cannot be recorded. */
inline lose_session() {  /* code: work.run */
#ifndef NO_LOST_COUNTS
    if :: counted -> one_more(kills) :: else fi;
    let_come_back()
#else
    if :: counted -> owe() :: else -> let_come_back() fi
#endif
}

/* Counts an attempt, in a transaction of its own. */
inline begin() { begun++; counted = true }

inline take_back() { take_back_one(); counted = false }

#ifndef NO_ROW_LOCK
#define row_lock_is_free (row_lock == 0)
#else
#define row_lock_is_free true
#endif

#ifndef NO_SUSPECT_BY_SENDS
#define SUSPECT_BY_SENDS (SUSPECT < 9 && sends >= SUSPECT_SENDS)
#else
#define SUSPECT_BY_SENDS false
#endif

#ifndef NO_RETRY_IS_LEASED
#define is_leased (sends > 0)
#else
#define is_leased true
#endif
#define is_stale (status == RETRYING && (for_attempts != attempts || !is_leased))

/* With SPLIT_STEPS, other processes may act, and a crash may happen, between reading and locking. */
#ifdef SPLIT_STEPS
#define NEXT_STEP skip } atomic { or_die();
#else
#define NEXT_STEP skip;
#endif

proctype Worker(byte id) {
    byte was_attempts, was_epoch;
    bool suspect, counted, failing, fatal;
    byte what, for_attempts;
end:
    atomic {  /* code: work.receive */
        if
        :: received[0] > 0 && received[0] <= MAX_RECEIVES -> slot[id] = 0
        :: received[1] > 0 && received[1] <= MAX_RECEIVES -> slot[id] = 1
        fi;
        received[slot[id]]++; what = kind[slot[id]]; for_attempts = sent_for[slot[id]];
        suspect = (received[slot[id]] > SUSPECT + 1);
#ifdef NO_DELETE_AFTER_COMMIT
        if :: what == PLAIN -> clear(slot[id]) :: else fi;
#endif
        if
        :: true
        :: faults > 0 -> faults--; what = 0;  /* killed; or PostgreSQL is away; or Redis claims that the event is busy */
            let_come_back(); goto end
        fi;
#ifdef CONSOLE
        /* A copy is an operator's redrive from the console, if it is proven and of the present death. */
        if  /* code: work.revive */
        :: what == PLAIN || what == STRANGE
#ifndef NO_PROOF
        :: what == FORGED -> what = 0; goto finished
#else
        :: what == FORGED -> what = 0; if :: given_up -> wake() :: else fi; goto finished
#endif
#ifndef NO_DEATH_MATCH
        :: what >= COPY && status == DEAD && epoch == what - COPY -> what = 0; wake(); goto finished
        :: what >= COPY && !(status == DEAD && epoch == what - COPY) -> what = 0; goto finished
#else
        :: what >= COPY -> what = 0; if :: status == DEAD -> wake() :: else fi; goto finished
#endif
        fi;
#endif
        /* The first phase is one transaction, which many events share. */
        if  /* code: work.fold */
        :: status == NONE || given_up -> goto finished
#ifdef NO_ATTEMPT_IN_MESSAGE
        :: status == RETRYING -> goto finished                     /* the lease moved its `due` */
        :: status == RETRYING                                     /* or the retry is due */
#else
        :: is_stale -> goto finished                              /* the retry gets a new message when it is due */
        :: status == RETRYING && !is_stale
#endif
        :: status == RECEIVED || status == QUEUED
        fi;
#ifndef NO_FOLD_FIRST
        if
        :: folded = true
#ifdef REFUSED_FOLD
        :: !folded ->  /* PostgreSQL refuses the event's facts, even alone */
#ifndef NO_FOLD_FAILURE_COUNTS
            was_attempts = attempts; was_epoch = epoch; one_more(failures); goto failed
#else
            let_come_back(); goto end
#endif
#endif
        fi;
#endif
#ifdef NO_HANDLERS
        if :: row_lock == 0 -> become(NONE); processed = true; assert(folded || !processed_without_the_timeline) :: else fi;
        goto finished
#endif
        suspect = suspect || SUSPECT_BY_SENDS;
        NEXT_STEP
        /* The second phase is a separate transaction. */
#ifdef NO_LOCK_BEFORE_BEGUN
        if :: suspect -> begin(); suspect = false :: else fi;
        NEXT_STEP
#endif
        if  /* code: work.lock */
#ifndef NO_ROW_LOCK
        :: row_lock != 0 && counted -> goto give_back
        :: row_lock != 0 && !counted -> let_come_back(); goto end
#endif
        :: row_lock_is_free && !open && counted -> goto give_back
        :: row_lock_is_free && !open && !counted -> goto finished
#ifndef NO_ATTEMPT_IN_MESSAGE
        :: row_lock_is_free && is_stale -> goto finished
        :: row_lock_is_free && open && !is_stale ->
            assert(status != RETRYING || was_due || !tried_before_it_was_due);
#else
        :: row_lock_is_free && open ->
#endif
            for_attempts = 0; row_lock = id; was_attempts = attempts; was_epoch = epoch
        fi;
        if
#ifndef NO_BEGUN
        :: suspect -> suspect = false; goto count
#else
        :: suspect -> suspect = false
#endif
        :: !suspect
        fi;
#ifdef NO_LOCK_BEFORE_BEGUN
        if :: counted && begun > MAX_ATTEMPTS -> assert(IS_TRIED || !dead_without_being_tried); die(); counted = false; let_go(); goto finished :: else fi;
#endif
        goto attempt
    }
count:
    atomic {  /* code: work.begin */
        or_die();
        begin();
        if
        :: begun > MAX_ATTEMPTS -> assert(IS_TRIED || !dead_without_being_tried); goto bury
        :: else -> goto attempt
        fi
    }
bury:
    atomic {  /* code: work.bury */
        or_die();
        die(); counted = false; let_go(); goto finished
    }
attempt:
#ifdef POISON
    atomic {  /* the event kills its worker each time */
#ifdef FAILS_BETWEEN
        if :: attempts == 0 && begun > 1 -> one_more(failures); failing = true; goto give_back :: else fi;
#endif
#ifdef KILLS_POSTGRESQL
        lose_session(); goto end
#endif
        if :: counted && away > 0 -> away--; owe(); goto end :: true fi;
        fall(); forget(); goto end
    }
#else
    atomic {  /* code: work.run */
        or_die();
        if
        :: faults > 0 -> faults--; goto give_back       /* the worker must stop */
        :: counted && away > 0 -> away--; owe(); goto end
        :: counted && away > 0 -> away--; lose_session(); goto end
        :: HANDLER_FAILS -> one_more(failures); failing = true; goto give_back
        :: PERMANENT -> fatal = true; permanent = true; failing = true; goto give_back
        :: true
        fi;
        effects++;
#ifdef NO_ONE_TRANSACTION
    }
    atomic {
        or_die();
#endif
        assert(effects <= 1 || !an_effect_is_doubled);  /* code: work.end */
        assert(folded || !processed_without_the_timeline);
        become(NONE); attempts = 0; begun = 0; kills = 0; sends = 0; was_due = false; unrecorded = false; processed = true;
        counted = false; let_go(); goto finished
    }
#endif
give_back:  /* before the row lock is released */
#ifdef NO_TAKE_BACK_BEFORE_UNLOCK
    atomic { or_die(); let_go() }
#endif
#ifndef NO_TAKE_BACK
    atomic {
        if
        :: counted -> or_die(); take_back()  /* code: work.take_back */
        :: else
        fi
    }
#endif
    atomic {
        or_die();
        if
        :: failing -> counted = false; failing = false; let_go(); goto failed
        :: else -> let_come_back(); goto end
        fi
    }
failed:
    atomic {  /* code: work.fail */
        row_lock == 0 -> or_die();  /* the UPDATE waits for another worker's lock */
        if
#ifdef NO_FAIL_CAS
        :: open ->
#else
        :: open && attempts == was_attempts && epoch == was_epoch ->
#endif
            if
            :: fatal -> assert(IS_TRIED || !dead_without_being_tried); die()
#ifndef NO_ATTEMPT_LIMIT
            :: !fatal && attempts + 1 >= MAX_ATTEMPTS -> assert(IS_TRIED || !dead_without_being_tried); attempts = MAX_ATTEMPTS; die()
            :: !fatal && attempts + 1 < MAX_ATTEMPTS -> attempts++; become(RETRYING)
#else
            :: !fatal -> become(RETRYING)
#endif
            fi;
            kills = 0; sends = 0; was_due = false; make_counts_void()
        :: else
        fi;
        fatal = false; was_attempts = 0; was_epoch = 0; goto finished
    }
finished:
    atomic {  /* code: work.delete */
        or_die();
        if :: slot[id] != NOWHERE -> clear(slot[id]) :: else fi;
        forget(); goto end
    }
died:
    atomic { fall(); what = 0; forget(); goto end }
}

/* ---- dead letters ---- */

active proctype Reader() {
    byte was;
died:
    was = 0;
end:
    do
    :: atomic {  /* code: dead_letters.put_back */
#ifndef NO_KEEP_RAW_WHILE_LOCKED
            raw > 0 && row_lock == 0 -> or_die();
#else
            raw > 0 -> or_die(); if :: row_lock != 0 -> goto remove_raw :: else fi;
#endif
            if
#ifdef NO_PUT_BACK
            :: status == RECEIVED || status == QUEUED -> assert(IS_TRIED || !dead_without_being_tried); die()
#else
            :: status == RECEIVED || status == QUEUED -> become(RECEIVED)
#ifndef NO_PUT_BACK_MOVES_DUE
            :: status == RETRYING -> become(RETRYING)  /* due a microsecond later than before */
#endif
#ifdef NO_PUT_BACK_WHERE_OPEN
            :: given_up -> become(RECEIVED)            /* by the status as read, though the work has died since */
#endif
#endif
            :: else
            fi
        }
#ifndef NO_REMOVE_RAW
remove_raw:
        atomic { or_die(); if :: raw > 0 -> raw-- :: else fi }  /* code: dead_letters.remove_raw */
#endif
#ifndef NO_COPY_OWED
    :: atomic { status == DEAD && !copy_sent -> was = epoch }                /* code: dead_letters.owed */
        atomic { or_die(); copies[was]++ }                          /* code: dead_letters.send_copy */
        atomic { or_die(); if :: status == DEAD && epoch == was -> copy_sent = true :: else fi; was = 0 }  /* code: dead_letters.mark_copy */
#endif
#ifndef NO_REMOVE_FALSE_COPIES
    :: atomic { copies[0] > 0 && !(status == DEAD && epoch == 0) -> copies[0]-- }  /* code: dead_letters.remove_copy */
#if OPERATIONS > 0
    :: atomic { copies[1] > 0 && !(status == DEAD && epoch == 1) -> copies[1]-- }
#endif
#if OPERATIONS > 1
    :: atomic { copies[2] > 0 && !(status == DEAD && epoch == 2) -> copies[2]-- }
#endif
#endif
#ifndef NO_ONE_COPY
    :: atomic { copies[epoch] > 1 -> copies[epoch]-- }                       /* code: dead_letters.remove_copy */
#endif
#ifndef NO_OWE_LOST_COPIES
    :: atomic { status == DEAD && copy_sent && copies[epoch] == 0 -> copy_sent = false }  /* code: dead_letters.owe_lost */
#endif
    od
}

/* ---- operators ---- */

active proctype Operator() {
end:
    do
#if STRANGER > 0
    :: atomic { strange > 0 && room && open -> strange--; put(STRANGE, 0) }
    :: atomic { strange > 0 && room && open -> strange--; put(STRANGE, 1) }  /* the stranger guesses the number of failed attempts */
#endif
    :: atomic { operations > 0 && given_up -> operations--; asked++; wake() }                 /* code: operator.redrive */
    :: atomic { operations > 0 && status == DEAD -> operations--; become(DISCARDED) }         /* code: operator.discard */
#ifdef CONSOLE
    :: atomic { operations > 0 && room && copies[0] > 0 -> operations--; asked++; copies[0]--; put(COPY, 0) }  /* code: operator.console */
#if OPERATIONS > 1
    :: atomic { operations > 0 && room && copies[1] > 0 -> operations--; asked++; copies[1]--; put(COPY + 1, 0) }
#endif
    :: atomic { faults > 0 && room && given_up -> faults--; put(FORGED, 0) }                  /* a stranger who may send to the queue */
#endif
    od
}

/* ---- invariants that hold at every moment ---- */

active proctype Monitor() {
end:
    if
    :: atomic { answered && !(ledger && (status != NONE || processed)) -> assert(!a_200_is_lost) }
    :: atomic { ledger && status == NONE && !processed -> assert(!a_200_is_lost) }
    :: atomic { status == QUEUED && no_message && !lost -> assert(!waits_for_a_resend_although_nothing_is_lost) }
    :: atomic { timeout -> assert(!open || !stuck_at_the_end); assert(agree || !disagrees_at_the_end) }
    fi
}

init {
    atomic {
        slot[1] = NOWHERE; slot[2] = NOWHERE;
#ifndef DELIVERIES
        ledger = true; answered = true; status = RECEIVED; current[HOT_PATH] = true;  /* the webhook was received */
#endif
        run Worker(1); run Worker(2)
    }
}
