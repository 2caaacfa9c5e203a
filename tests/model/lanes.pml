/* Lanes: fresh work beside work that was tried once or redriven (rest), and work that fails each time (later). Handlers may hang for ever.
 *
 * Event 0 is fresh, events 1 and 2 are rest, and events 3 and 4 are later, and are tried again for ever. There are three turns, and so one place in
 * the queue for each of the lanes rest and later. A process with five more turns has just died: its turns still count for a minute. Work that was sent
 * within that minute does not hang. HANG: handlers of later work may hang; HANG_ALL: handlers of rest, too; LOSES: the queue may lose the messages of
 * event 1. Here the queue is first in, first out; flow.pml has a queue without order. README.md says how to run this model.
 */

#define FRESH 0
#ifndef NO_THREE_TURNS
#define TURNS 3
#else
#define TURNS 2
#endif
#define TURNS_OF_THE_DEAD 5

#define WAITING 0      /* received or retrying, and due */
#define SENT 1
#define IN_HAND 2
#define LOST 3         /* sent, and its message is lost */
#define ENDED 4

byte state[5];
bool may_hang[5];
chan queue = [5] of { byte };
bool has_come[5], is_over;
byte turns = TURNS + TURNS_OF_THE_DEAD;  /* the turns in the table `processes`, of processes seen within a minute */

#define waits(n) (state[n] == WAITING && has_come[n])
#define fresh_waits waits(FRESH)

/* The number of a lane's events in the queue. Work that may be lost takes no room. */
#ifndef NO_IN_HAND_COUNTS
#define out(n) (state[n] == SENT || state[n] == IN_HAND)
#else
#define out(n) (state[n] == SENT)
#endif
#define share (turns >= 8 -> turns / 4 : 1)
#define rest (out(1) + out(2))
#define later (out(3) + out(4))

#ifdef NO_LANES_APART  /* one lane with room for half of the turns */
#define room_of_rest (rest + later < 2 * share)
#define room_of_later room_of_rest
#else
#ifndef NO_REST_ROOM
#define room_of_rest (rest < share)
#else
#define room_of_rest true
#endif
#ifndef NO_LATER_ROOM
#define room_of_later (later < share)
#else
#define room_of_later true
#endif
#endif
#define rest_waits ((waits(1) || waits(2)) && room_of_rest)

#ifndef NO_RESEND_WITHOUT_ROOM
#define lost_waits (state[1] == LOST)
#else
#define lost_waits (state[1] == LOST && room_of_rest)
#endif
#define others_wait (rest_waits || lost_waits)  /* a round takes from each lane: no lane waits for ever behind another */

#ifndef NO_FRESH_FIRST
#define goes_before_fresh false
#else
#define goes_before_fresh true
#endif
#define may_send(lane) (!fresh_waits || goes_before_fresh) && room_of_##lane

ltl fresh { <> (state[FRESH] == ENDED) }
ltl rest_is_tried { <> (state[1] == ENDED && state[2] == ENDED) }
ltl rest_moves { [] ((state[1] == LOST) -> <> (state[1] != LOST)) }

inline send(n) { state[n] = SENT; may_hang[n] = is_over; queue ! n }

active proctype Sweeper() {
end:
    do
    :: atomic { fresh_waits -> send(FRESH) }  /* code: lanes.fresh */
    :: atomic { may_send(rest) && waits(1) -> send(1) }  /* code: lanes.rest */
    :: atomic { may_send(rest) && waits(2) -> send(2) }
    :: atomic { may_send(later) && !others_wait && waits(3) -> send(3) }  /* code: lanes.later */
    :: atomic { may_send(later) && !others_wait && waits(4) -> send(4) }
    :: atomic { lost_waits -> send(1) }  /* code: lanes.resend */
    od
}

active proctype Receiver() {  /* events 0 and 1 arrive at some time, in any order */
    atomic { has_come[2] = true; has_come[3] = true; has_come[4] = true }
    if
    :: true -> has_come[FRESH] = true; has_come[1] = true
    :: true -> has_come[1] = true; has_come[FRESH] = true
    fi
}

active proctype Minute() {
    atomic {
        is_over = true;
#ifndef NO_FADE
        turns = TURNS  /* code: lanes.turns */
#endif
    }
}

#ifdef LOSES
active proctype Queue() {
end:
    atomic { queue ?? [1] -> queue ?? 1; state[1] = LOST }
}
#endif

active [TURNS] proctype Turn() {  /* a poller's turn: one event at a time */
    byte event;
end:
    do
    :: atomic { queue ? event -> state[event] = IN_HAND }  /* code: lanes.receive */
hang:   if
#ifdef HANG_ALL
        :: event != FRESH && may_hang[event] -> goto hang
#elif defined(HANG)
        :: event > 2 && may_hang[event] -> goto hang
#endif
        :: true
        fi;
        atomic { state[event] = (event <= 2 -> ENDED : WAITING); may_hang[event] = false; event = 0 }
    od
}
