#!/bin/sh
# test_watchdog.sh DTRAIN HANG: over several hosts a rank that hangs, is stopped or is cut off is
# named with its host. HANG is dtrain with hang.c. Skipped where there can be no such hosts.
set -eu
dtrain=$1
hang=$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
folder=$(CDPATH='' cd -- "$(dirname "$0")" && pwd)
mine=
trap '[ -z "$mine" ] || bash "$folder/hosts.sh" down; rm -rf "$work"' EXIT
cd "$work"

# Only hosts that this test made are this test's to remove: not those that were there already (1).
status=0
bash "$folder/hosts.sh" up 3 </dev/null >"$out" 2>"$err" || status=$?
case $status in
1 | 69)
    cat "$err"
    exit 77
    ;;
esac
mine=yes
printf 'input 28 28 1\nconv 6 5x5 relu\nmaxpool 2\ndense 40 relu\ndense 10\n' >net

# start() for a rank on each host
start() # HANG
{
    last="$*"
    rm -f pid.*
    # shellcheck disable=SC2016 # for the ranks' own shells
    DTRAIN_TEST_HANG=$1 timeout -s KILL 60 bash "$folder/hosts.sh" mpirun 1 --bind-to none \
        -x DTRAIN_TEST_HANG sh -c 'echo $$ >pid.${OMPI_COMM_WORLD_RANK:-$PMIX_RANK}; exec "$@"' \
        sh "$hang" --data synthetic:1000 --validation-size 200 --model net --threads 1 \
        --eval-every 20 --steps 100000 --checkpoint-dir none --watchdog 2 \
        </dev/null >"$out" 2>"$err" &
    job=$!
}

ends() # RANK TEXT
{
    status=0
    wait "$job" || status=$?
    check 'exit status 124' [ "$status" -eq 124 ]
    check "rank $1 is named" grep -q "^dtrain: rank $1 on h$1 .*$2" "$err"
    check 'nobody else' [ -z "$(grep '^dtrain: rank' "$err" | grep -v "rank $1 on")" ]
}

start 2:network_forward:9
ends 2 'has got nothing done for [23] s: step 7, forward pass'
start 0:dtr_tree_chunk_begin:30 # on the thread that moves messages
ends 0 'has got nothing done for [23] s: step .*bucket 0 of the exchange'

for victim in 1 0; do
    seconds='[2-4]'
    [ "$victim" -ne 0 ] || seconds='\([89]\|10\)'
    start none
    check 'trains' wait_for '^Step 20 '
    send STOP "$victim"
    ends "$victim" "has not answered for $seconds s"
done

# A link that is cut. Open MPI 4's mpirun waits for the lost host forever; the end of the hosts ends
# it.
start none
check 'trains' wait_for '^Step 20 '
bash "$folder/hosts.sh" run h2 ip link set eth0 down
check 'rank 2 is named' wait_for '^dtrain: rank 2 on h2 .* has not answered for [2-4] s' "$err"
check 'nobody else' [ "$(grep -c '^dtrain: rank' "$err")" -eq 1 ]
bash "$folder/hosts.sh" down
mine=
wait "$job" || true
finish
