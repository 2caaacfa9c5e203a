/* Suspects: one message with two events. Event 0 kills its worker each time, event 1 does no harm. The process runs what it receives at the same time.
 *
 * Every receive is suspect here: flow.pml has the others. README.md says how to run it.
 */

#define MAX_ATTEMPTS 3
#define POISON 0

bool ended[2], dead[2], running[2];
byte begun[2];
bit dies_of_its_neighbour = 1;

#define all_done ((ended[0] || dead[0]) && (ended[1] || dead[1]))
ltl ends { <> all_done }

#ifndef NO_SUSPECT_ALONE
#define free (!running[0] && !running[1])
#else
#define free true
#endif

inline begin(n) {
    if
    :: begun[n] >= MAX_ATTEMPTS -> dead[n] = true; assert(n == POISON || !dies_of_its_neighbour)
    :: else -> begun[n]++; running[n] = true
    fi
}

active proctype Process() {
end:
    do  /* each begins once in a receive; a process that is killed receives both again */
    :: atomic { !ended[0] && !dead[0] && !running[0] && free -> begin(0) }  /* code: work.begin_alone */
    :: atomic { !ended[1] && !dead[1] && !running[1] && free -> begin(1) }
    :: atomic { running[1] -> running[1] = false; begun[1] = 0; ended[1] = true }
    :: atomic { running[0] -> running[0] = false; running[1] = false }      /* killed */
    od
}
