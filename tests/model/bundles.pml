/* Two events that share a message, which SQS moved to the dead-letter queue while a worker may hold one of the events, or (FOLD) a fold.
 *
 * At first a worker may hold either event by the message that SQS moved. flow.pml models one event alone. FOLD: both bodies together are too
 * much for one fold and kill its process; each body alone is not. README.md says how to run this model.
 */

#define EVENTS 2

#ifndef FOLD

#define RECEIVED 0
#define QUEUED 1
#define ENDED 2

byte status[EVENTS] = QUEUED;
bool message[EVENTS];  /* the sweeper's messages in the main queue, one for each event */
bool held[EVENTS];     /* the row's lock */
bool raw = true;
bit waits_for_a_resend_although_nothing_is_lost = 1;

#define open(n) (status[n] != ENDED)
#define waits_for_a_resend(n) (status[n] == QUEUED && !held[n] && !message[n] && !raw)
ltl agrees { <> (!raw) }

active proctype Reader() {
    bool was_open[EVENTS];
end:
    do
    :: atomic { raw -> was_open[0] = open(0); was_open[1] = open(1) }  /* code: bundles.read */
        atomic {  /* code: bundles.put_back */
            if
#ifndef NO_PUT_BACK_WHOLE
            :: (was_open[0] && (!open(0) || held[0])) || (was_open[1] && (!open(1) || held[1])) -> skip  /* the next pass tries again */
            :: else ->
#else
            :: true ->
#endif
                if :: open(0) && !held[0] -> status[0] = RECEIVED :: else fi;
                if :: open(1) && !held[1] -> status[1] = RECEIVED :: else fi;
                raw = false
            fi;
            was_open[0] = false; was_open[1] = false
        }
    od
}

active [EVENTS] proctype Sweeper() {
end:
    do
    :: atomic { status[_pid - 1] == RECEIVED && !held[_pid - 1] -> status[_pid - 1] = QUEUED; message[_pid - 1] = true }
    od
}

active [EVENTS] proctype Worker() {  /* one worker for each event, in one process or in two */
    if :: true -> held[_pid - 3] = true :: true fi;
end:
    do
    :: atomic { held[_pid - 3] -> status[_pid - 3] = ENDED; held[_pid - 3] = false; message[_pid - 3] = false }
    :: atomic { held[_pid - 3] -> held[_pid - 3] = false }  /* killed */
    :: atomic { !held[_pid - 3] && message[_pid - 3] && open(_pid - 3) -> held[_pid - 3] = true }
    od
}

active proctype Monitor() {
end:
    atomic { waits_for_a_resend(0) || waits_for_a_resend(1) -> assert(!waits_for_a_resend_although_nothing_is_lost) }
}

#else

#define TRUSTED 3        /* a body that was received more often is folded alone */

byte received[EVENTS];
bool done[EVENTS];

ltl ends { <> (done[0] && done[1]) }

#define more(n) received[n] = (received[n] <= TRUSTED -> received[n] + 1 : received[n])
#ifndef NO_FOLD_ALONE
#define may_share(n) (received[n] < TRUSTED)
#else
#define may_share(n) true
#endif

active proctype Process() {
end:
    do
    :: atomic { !done[0] && !done[1] && may_share(0) && may_share(1) -> more(0); more(1) }  /* killed: code: bundles.fold */
    :: atomic { !done[0] -> more(0); done[0] = true }                                      /* code: bundles.fold_alone */
    :: atomic { !done[1] -> more(1); done[1] = true }
    od
}

#endif
