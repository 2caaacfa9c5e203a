/* Suspects: events that kill their process each time, beside an event that does no harm. A process runs the events that it receives at the same time.
 *
 * The numbers here are those of the code. Event 0 may have been received often before, for any reason. Each event has a message of its own, which
 * comes back after a kill. No redrive or failure makes counts void; flow.pml models that. README.md says how to run this model.
 */

#define MAX_ATTEMPTS 3   /* the least value of max(WEBHOOKD_MAX_ATTEMPTS, 3) */
#define TRUSTED 3        /* an event that was received more often is a suspect */
#define EVENTS 3         /* event 0 does no harm, the other events are poison */
#define NEIGHBOUR 0

#define WAITS 0
#define RUNS 1
#define RUNS_ALONE 2
#define ENDED 3
#define DEAD 4

byte state[EVENTS], received[EVENTS], begun[EVENTS], others[EVENTS];
bool counted[EVENTS];
bit dies_of_its_neighbour = 1, more_than_one_count_of_others = 1;

#define done(n) (state[n] == ENDED || state[n] == DEAD)
#define runs(n) (state[n] == RUNS || state[n] == RUNS_ALONE)
ltl ends { <> (done(0) && done(1) && done(2)) }

#define nobody_alone (state[0] != RUNS_ALONE && state[1] != RUNS_ALONE && state[2] != RUNS_ALONE)
#ifdef NO_SUSPECT_ALONE
#define may_run true
#define may_run_alone true
#elif defined(NO_OTHERS_WAIT)
#define may_run true
#define may_run_alone nobody_alone
#else
#define may_run nobody_alone
#define may_run_alone (!runs(0) && !runs(1) && !runs(2))
#endif

#define suspected(n) (received[n] >= TRUSTED)
#define may_start(n) (state[n] == WAITS && (suspected(n) && begun[n] > 0 -> may_run_alone : may_run))

inline start(n) {
    if
    :: !suspected(n) -> received[n]++; state[n] = RUNS
    :: suspected(n) && begun[n] == 0 -> begun[n] = 1; counted[n] = true; state[n] = RUNS
    :: suspected(n) && begun[n] >= MAX_ATTEMPTS -> state[n] = DEAD; assert(n != NEIGHBOUR || !dies_of_its_neighbour)
    :: suspected(n) && begun[n] > 0 && begun[n] < MAX_ATTEMPTS -> begun[n]++; counted[n] = true; state[n] = RUNS_ALONE
    fi
}

#ifdef COUNTS  /* the number of an event's counts that come from kills by other events */
#define COUNT_OF_OTHERS(n, killer) if :: counted[n] && n != killer -> others[n]++; assert(others[n] <= 1 || !more_than_one_count_of_others) :: else fi
#else
#define COUNT_OF_OTHERS(n, killer) skip
#endif

inline fall(n, killer) {
    if
    :: runs(n) -> state[n] = WAITS;
        COUNT_OF_OTHERS(n, killer)
    :: else
    fi;
    counted[n] = false
}

inline kill(n) { fall(0, n); fall(1, n); fall(2, n) }

active proctype Process() {
    if :: received[NEIGHBOUR] = 0 :: received[NEIGHBOUR] = TRUSTED fi;
end:
    do
    :: atomic { may_start(0) -> start(0) }  /* code: work.begin_alone */
    :: atomic { may_start(1) -> start(1) }
    :: atomic { may_start(2) -> start(2) }
    :: atomic { runs(0) -> state[0] = ENDED; counted[0] = false; begun[0] = 0 }
    :: atomic { runs(1) -> kill(1) }
    :: atomic { runs(2) -> kill(2) }
    od
}
