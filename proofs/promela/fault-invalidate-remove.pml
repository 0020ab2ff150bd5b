/*
 * A fault beside invalidations, a removal and a collapse (R4, R7, R8), every interleaving of their steps.
 *
 * One table of two pages below one entry. A fault notes what invalidations are open and what has happened since, translates,
 * locks the entry, looks again, and publishes or puts back. An invalidation counts itself open, descends from the top,
 * locks leaves (or the table's entry, to cut it off), flushes, empties, lets the host change its memory, and ends. A
 * collapse locks the table's entry and freezes the leaves. Hardware caches what it finds, leaf or table, until a flush.
 *
 * Safety: no access reaches memory that was taken; empty means that nothing is cached; a block is made of what its pages
 * said. Liveness (LIVE): a fault ends although a neighbour invalidates its own page for ever. An event is remembered by
 * the pages that it concerned: the engine remembers the last sixteen, and a fault that sleeps through more looks again.
 */

#define PAGES   2
#define EMPTY   0
#define LOCKED  1
#define FROZEN  2
#define TABLE   3
#define LEAF    4                       /* LEAF + generation of its memory */
#define AT(t,p) entry[(t) * PAGES + (p)]

byte top = TABLE;                       /* the entry above: LOCKED, TABLE, EMPTY, or a block LEAF + generation */
byte table;                             /* which table it points to: none is used twice */
byte entry[6];                          /* the entries of three tables */
byte memory[PAGES];                     /* the generation of each page's memory */
byte taken[PAGES];                      /* generations below this one belong to somebody else */
byte open[PAGES];                       /* invalidations that are open over each page */
bool event[PAGES];                      /* something has happened to the page since the fault noted it */
byte cached[PAGES];                     /* hardware: 0, or the leaf of a page */
byte walk;                              /* hardware: 0, or the number of the table, plus one, that it has a pointer to */
bool ended;                             /* the fault has ended */

inline count(page)                      { open[page]++; event[page] = true }
inline uncount(page)                    { open[page]--; event[page] = true }
inline flush_leaf(page)                 { atomic { cached[page] = 0 } }
inline flush_table()                    { atomic { cached[0] = 0; cached[1] = 0; walk = 0 } }
inline emptied(t, page)                 { atomic { assert(cached[page] == 0); AT(t, page) = EMPTY } }

/* A fault on `page`, again and again until it is served. */
proctype Fault(byte page)
{
    byte answer, t;
again:
    atomic { event[page] = false }      /* note the word */
    if
    :: open[page] > 0 -> goto again     /* Retry: back to the guest */
    :: else
    fi;
    answer = memory[page];              /* translate */
    if
    :: atomic { top == TABLE -> t = table }
    :: top >= LEAF -> goto served       /* a block: spurious */
    :: atomic { top == EMPTY && table < 2 -> table++; top = TABLE }     /* link a fresh table */
        goto again
    :: atomic { top == EMPTY && table == 2 -> goto served }             /* the model has no more tables */
    :: top == LOCKED -> goto again      /* somebody is changing it */
    fi;
    if
    :: atomic { AT(t, page) == EMPTY -> AT(t, page) = LOCKED }
    :: AT(t, page) >= LEAF -> goto served
    :: AT(t, page) == LOCKED || AT(t, page) == FROZEN -> goto again
    fi;
    if                                  /* after the fence: the word again */
    :: atomic { !event[page] && open[page] == 0 -> skip }
    :: atomic { event[page] || open[page] > 0 -> AT(t, page) = EMPTY }
        goto again
    fi;
    AT(t, page) = LEAF + answer;        /* publish */
served:
    ended = true
}

/* Takes the memory of `page` back, once or for ever. */
proctype Invalidate(byte page; bool forever)
{
    byte seen, t;
again:
    atomic { count(page) }
descend:
    if
    :: top == LOCKED -> goto descend
    :: top == EMPTY -> goto gone
    :: top >= LEAF ->                   /* a block goes as a whole: no table is at hand */
        if
        :: atomic { top >= LEAF -> top = LOCKED }
        :: top < LEAF -> goto descend
        fi;
        flush_table();
        top = EMPTY;
        goto gone
    :: atomic { top == TABLE -> t = table }
    fi;
    seen = AT(t, page);
    if
    :: seen == LOCKED || seen == FROZEN -> goto descend
    :: seen == EMPTY -> skip
    :: seen >= LEAF ->
        if
        :: atomic { AT(t, page) == seen -> AT(t, page) = LOCKED }
        :: AT(t, page) != seen -> goto descend
        fi;
        flush_leaf(page);
        emptied(t, page)
    fi;
gone:
    if
    :: forever -> atomic { uncount(page) } goto again
    :: !forever -> atomic { memory[page] = 1; taken[page] = 1 } atomic { uncount(page) }
    fi
}

/* Cuts the table off: one flush, the entry locked until it is over. */
proctype Cut()
{
    if
    :: atomic { top == TABLE -> top = LOCKED }
    :: top != TABLE -> goto over
    fi;
    flush_table();
    atomic { assert(walk == 0 && cached[0] == 0 && cached[1] == 0); top = EMPTY }
over:
    skip
}

/* Makes one leaf of the table, if its pages are leaves of one generation. */
proctype Collapse()
{
    byte frozen, value[PAGES];
    if
    :: atomic { top == TABLE -> top = LOCKED }
    :: top != TABLE -> goto over
    fi;
    do
    :: frozen < PAGES ->
        if
        :: atomic { AT(table, frozen) >= LEAF -> value[frozen] = AT(table, frozen); AT(table, frozen) = FROZEN }
            frozen++
        :: AT(table, frozen) < LEAF -> goto thaw
        fi
    :: else -> break
    od;
    if
    :: value[0] == value[1] -> skip
    :: else -> goto thaw
    fi;
    flush_table();
    atomic { assert(cached[0] == 0 && cached[1] == 0); top = value[0] }
    goto over;
thaw:
    do
    :: frozen > 0 -> frozen--; AT(table, frozen) = value[frozen]
    :: else -> break
    od;
    top = TABLE;
over:
    skip
}

/* The walker of one core: it may cache at any time what it finds, and use what it has cached. */
active proctype Hardware()
{
end:
    do
    :: atomic { top == TABLE -> walk = table + 1 }
    :: atomic { walk > 0 && AT(walk - 1, 0) >= LEAF -> cached[0] = AT(walk - 1, 0) }
    :: atomic { walk > 0 && AT(walk - 1, 1) >= LEAF -> cached[1] = AT(walk - 1, 1) }
    :: atomic { top >= LEAF -> cached[0] = top; cached[1] = top }
    :: atomic { cached[0] >= LEAF -> assert(cached[0] - LEAF >= taken[0]) }
    :: atomic { cached[1] >= LEAF -> assert(cached[1] - LEAF >= taken[1]) }
    od
}

#ifdef LIVE
init { atomic { run Fault(1); run Invalidate(0, true) } }
ltl ends { <> ended }
#else
init {
    atomic {
        run Fault(0); run Fault(1); run Invalidate(0, false); run Invalidate(1, false);
        if :: run Cut() :: run Collapse() fi
    }
}
#endif
