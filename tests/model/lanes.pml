/* Lanes: fresh work beside work that fails and is redriven for ever, and beside handlers that may hang for ever (HANG).
 *
 * Event 0 is fresh, 1 and 2 are the rest: each time they end, they are tried again. The queue is first in, first out here: what a queue without order
 * does to one message, flow.pml has. README.md says how to run it.
 */

#define FRESH 0
#define REST_WINDOW 1  /* rest work in SQS or in hand at a time; fewer than there are permits */

#define WAITING 0      /* received or retrying, and due */
#define SENT 1
#define IN_HAND 2
#define LOST 3         /* sent, and its message is lost */
#define ENDED 4

byte state[3];
chan queue = [4] of { byte };
bool has_lost, has_come;

#define fresh_waits (has_come && state[FRESH] == WAITING)

#define out(n) (state[n] == SENT || state[n] == IN_HAND || state[n] == LOST)
#define rest_out (out(1) + out(2))
#ifndef NO_REST_WINDOW
#define room (rest_out < REST_WINDOW)
#else
#define room true
#endif

ltl fresh { <> (state[FRESH] == ENDED) }
ltl rest_moves { [] ((state[1] == LOST) -> <> (state[1] != LOST)) }

active proctype Sweeper() {
end:
    do
    :: atomic { fresh_waits -> state[FRESH] = SENT; queue ! FRESH }  /* code: lanes.fresh */
#ifndef NO_FRESH_FIRST
    :: atomic { !fresh_waits && state[1] == WAITING && room -> state[1] = SENT; queue ! 1 }  /* code: lanes.rest */
    :: atomic { !fresh_waits && state[2] == WAITING && room -> state[2] = SENT; queue ! 2 }
#else
    :: atomic { state[1] == WAITING && room -> state[1] = SENT; queue ! 1 }
    :: atomic { state[2] == WAITING && room -> state[2] = SENT; queue ! 2 }
#endif
#ifndef NO_RESEND_IN_WINDOW
    :: atomic { state[1] == LOST -> state[1] = SENT; queue ! 1 }  /* code: lanes.resend */
#else
    :: atomic { state[1] == LOST && room -> state[1] = SENT; queue ! 1 }
#endif
    od
}

active proctype Receiver() { has_come = true }

active proctype Queue() {
    byte first;
end:
    atomic { state[1] == SENT && !has_lost && queue ? [1] -> queue ? 1; state[1] = LOST; has_lost = true }
}

active [2] proctype Permit() {  /* of a poller: one event at a time */
    byte event;
end:
    do
    :: atomic { queue ? event -> state[event] = IN_HAND }  /* code: lanes.receive */
#ifdef HANG
hang:   if
        :: event != FRESH -> goto hang
        :: true
        fi;
#endif
        atomic {
            if :: event == FRESH -> state[event] = ENDED :: else -> state[event] = WAITING fi;
            event = 0
        }
    od
}
