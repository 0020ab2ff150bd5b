/*
 * Withheld tables (R13): the log of a whole range is taken, or turned on, by one change above it, every interleaving.
 *
 * An upper entry, a lower one, one page. A withholder takes the mark and withholds the upper entry, whatever lies below. A
 * write fault that meets a withheld table pushes it down: it locks the entry, withholds or protects each child, and gives the
 * table back; at a child that somebody has locked it gives up. Nobody flushes for that: what hardware may have kept is from
 * before the withholding, whose flush counts as missing until it is over (R8). Then the fault relaxes the page and marks it,
 * even if somebody has withheld a table above it meanwhile. A harvest of the page protects it whatever it found on the way.
 *
 * Safety: a write that was made is marked, or in what somebody has taken and not yet copied; with THREE, beside a third fault.
 * Liveness (LIVE): a fault ends although withholders come for ever.
 *
 * STAMPED is the design as it was: anybody pushes down without a lock, and gives the table back if its stamp says that nobody
 * has withheld it since. One who comes late protects a page under a table that has been given back: what others then find
 * protected is still cached as writable, and nobody flushes it.
 */

#define TABLE     0
#define WITHHELD  1
#define LOCKED    2

byte upper = TABLE, lower = TABLE;
byte stamp[2];
bool writable = true;                   /* the page's leaf */
bool mark = true;                       /* the log names the page */
bool dirty = true;                      /* written since it was copied last */
byte unflushed;                         /* gathers that have protected or withheld, and not flushed (R8) */
byte running;                           /* operations that have not ended */
bool walk_upper, walk_lower, cached;    /* hardware: pointers to the lower table and to the page's, a writable leaf */
bool ended;                             /* a fault has ended */

inline flush_tables()                   { atomic { walk_upper = false; walk_lower = false; cached = false } }
inline flush_leaf()                     { atomic { cached = false } }
inline copy(taken)                      { atomic { if :: taken -> dirty = false :: else fi } }

/* Takes the log of everything below the upper entry. */
proctype Withhold(bool forever)
{
    bool taken;
again:
    atomic { taken = mark; mark = false }
    unflushed++;
change:
    if
    :: atomic { upper == TABLE -> upper = WITHHELD; stamp[0]++ }
    :: atomic { upper == WITHHELD -> stamp[0]++ }       /* by another, who may not have flushed */
    :: upper == LOCKED -> goto change
    fi;
    flush_tables();
    unflushed--;
    copy(taken);
    if
    :: forever -> goto again
    :: !forever -> running--
    fi
}

/* Takes the log of the page. */
proctype Harvest()
{
    bool taken;
    atomic { taken = mark; mark = false }
descend:
    if
    :: upper == LOCKED || lower == LOCKED -> goto descend
    :: else
    fi;
    if
    :: atomic { writable -> unflushed++; writable = false }
        flush_leaf();
        unflushed--
    :: !writable ->                     /* another has protected it, who may not have flushed */
        if
        :: unflushed > 0 -> flush_tables()
        :: unflushed == 0
        fi
    fi;
    copy(taken);
    running--
}

/* A write that is not allowed yet, to the page or to another one of its table. What is pushed down is not looked at again. */
proctype Fault(bool here)
{
    byte seen;
again:
#ifdef STAMPED
    if
    :: atomic { upper == WITHHELD -> seen = stamp[0] }
        atomic { lower = WITHHELD; stamp[1]++ }
        if
        :: atomic { upper == WITHHELD && stamp[0] == seen -> upper = TABLE }
        :: else -> goto again
        fi
    :: upper == TABLE
    fi;
    if
    :: atomic { lower == WITHHELD -> seen = stamp[1] }
        writable = false;
        if
        :: atomic { lower == WITHHELD && stamp[1] == seen -> lower = TABLE }
        :: else -> goto again
        fi
    :: lower == TABLE
    fi;
#else
    if
    :: upper == LOCKED -> goto again
    :: atomic { upper == WITHHELD -> upper = LOCKED }
        if
        :: lower == LOCKED -> upper = WITHHELD; goto again      /* given up */
        :: atomic { lower == TABLE -> lower = WITHHELD }
        :: lower == WITHHELD
        fi;
        upper = TABLE
    :: upper == TABLE
    fi;
below:
    if
    :: lower == LOCKED -> goto below
    :: atomic { lower == WITHHELD -> lower = LOCKED }
        writable = false;
        lower = TABLE
    :: lower == TABLE
    fi;
#endif
    if
    :: !here || writable
    :: atomic { here && !writable -> writable = true }
        mark = true                     /* after it is published */
    fi;
    ended = true;
    running--
}

/* The walker of one core, and the guest's writes. */
active proctype Hardware()
{
end:
    do
    :: atomic { upper == TABLE && !walk_upper -> walk_upper = true }
    :: atomic { walk_upper && lower == TABLE && !walk_lower -> walk_lower = true }
    :: atomic { walk_lower && writable && !cached -> cached = true }
    :: atomic { cached && !(dirty && (running > 0 || mark)) -> dirty = true; assert(running > 0 || mark) }
    od
}

#ifdef LIVE
init { atomic { running = 2; run Withhold(true); run Fault(true) } }
ltl ends { <> ended }
#else
init {
    atomic {
        running = 5;
        run Withhold(false); run Withhold(false); run Harvest(); run Fault(true); run Fault(false);
#ifdef THREE
        running++; run Fault(false)
#endif
    }
    atomic { running == 0 -> assert(!dirty || mark) }
}
#endif
