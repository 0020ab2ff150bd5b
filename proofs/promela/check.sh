#!/bin/sh
# Checks a model: safety over every interleaving, then its liveness claim, then that each planted bug is found. Usage: check.sh MODEL
set -eu
model=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# check NAME SPIN-OPTIONS CC-OPTIONS PAN-OPTIONS: prints how many errors there are
check() {
    spin -a $2 "$model" >spin.log 2>&1 || { cat spin.log; exit 1; }
    cc -w -O2 -DVECTORSZ=2048 $3 -o pan pan.c
    ./pan -m1000000 -w24 $4 >pan.log 2>&1 || true
    grep -q "errors:" pan.log || { cat pan.log; exit 1; }
    states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log | head -1)
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log | head -1)
    echo "promela|$1|$states|$errors"
}

expect() {
    result=$(check "$1" "$3" "$4" "$5")
    echo "$result"
    case $result in
        *"|$2") ;;
        *) echo "expected $2 errors"; exit 1 ;;
    esac
}

expect safety 0 "" "-DSAFETY" ""
expect liveness 0 "-DLIVE" "" "-a -f -N ends"

# The model can fail: each line edits one step out.
original=$model
broken() {
    kind=${3:-safety}
    sed "$2" "$original" >broken.pml
    cmp -s broken.pml "$original" && { echo "the edit of '$1' edits nothing"; exit 1; }
    model=$folder/broken.pml
    case $kind in
        safety) expect "$1" 1 "" "-DSAFETY" "" ;;
        liveness) expect "$1" 1 "-DLIVE" "" "-a -f -N ends" ;;
    esac
    model=$original
}
broken "a fault that does not look again" 's/atomic { !event\[page\] && open\[page\] == 0 -> skip }/true/'
broken "a leaf emptied before its flush" 's/^        flush_leaf(page);//'
broken "a cut that keeps walks" 's/cached\[1\] = 0; walk = 0 }/cached[1] = 0 }/'
broken "a removal that skips frozen entries" 's/seen == LOCKED || seen == FROZEN -> goto descend/seen == LOCKED -> goto descend :: seen == FROZEN -> skip/'
broken "a fault that a neighbour's events turn away" 's/event\[page\] = true }/event[0] = true; event[1] = true }/' liveness
