#!/bin/sh
# Checks a model: safety over every interleaving, then its liveness claim, then that each planted bug is found: the lines of
# MODEL.planted, which edit one step out: what is broken (safety, the same beside a third thread, liveness), the bug's name, and
# the edit. Usage: check.sh MODEL.pml
set -eu
original=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# check NAME MODEL KIND ERRORS: prints how many states and errors there are, and fails if it is not so many errors.
check() {
    case $3 in
        safety) spin="" cc="-DSAFETY" pan="" ;;
        three) spin="-DTHREE" cc="-DSAFETY" pan="" ;;
        liveness) spin="-DLIVE" cc="" pan="-a -f" ;;
    esac
    spin -a $spin "$2" >spin.log 2>&1 || { cat spin.log; exit 1; }
    cc -w -O2 -DCOLLAPSE -DVECTORSZ=2048 $cc -o pan pan.c
    ./pan -m1000000 -w24 $pan >pan.log 2>&1 || true
    grep -q "errors:" pan.log || { cat pan.log; exit 1; }
    states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log | head -1)
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log | head -1)
    echo "promela|$1|$states|$errors"
    [ "$errors" = "$4" ] || { echo "expected $4 errors"; exit 1; }
}

name=$(basename "$original" .pml)
check "$name: safety" "$original" safety 0
if grep -q "#ifdef THREE" "$original"; then check "$name: safety beside a third" "$original" three 0; fi
check "$name: liveness" "$original" liveness 0

# The model can fail.
tab=$(printf '\t')
while IFS="$tab" read -r kind what edit; do
    sed "$edit" "$original" >broken.pml
    cmp -s broken.pml "$original" && { echo "the edit of '$what' edits nothing"; exit 1; }
    check "$name: $what" "$folder/broken.pml" "$kind" 1
done <"${original%.pml}.planted"
