#!/bin/sh
# run.sh: the campaigns, which look for what goes wrong seldom. Hours, where nothing else computes.
#
#   sh tests/campaign/run.sh short [BUILD]              a few cases of each, as in the test suite
#   sh tests/campaign/run.sh long [BUILD] [PART]...     all of them, or those parts
#
#   kills         ranks that are killed, stopped and signalled
#   writes        a disk that fails at each call of a checkpoint's writer, on 1 rank
#   writes2       the same on 2 ranks
#   disks         full and read-only disks
#   damage        damaged checkpoints and data sets; best with sanitizers (build/sanitize)
#   soak          10,000 checkpoints, 100,000 steps
#   resume        all pairs of 1, 2, 3, 4, 6 and 8 ranks before and after
#   hangs         each of three ranks in each phase
#
# BUILD is a folder of Meson's, build/test by default. A part ends in a line with what it has done,
# or in FAILED and its output. Either tells the seed: DTRAIN_TEST_SEED, or else the time.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
cd "$root"
form=${1:-short}
build=${2:-build/test}
[ $# -lt 2 ] || shift
shift
seed=${DTRAIN_TEST_SEED:-$(date +%s)}
failures=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

command_of() # PART
{
    case $1 in
    kills) echo "tests/campaign/kills.py $build/dtrain --runs 500 --seed $seed" ;;
    writes) echo "tests/campaign/writes.py $build/dtrain $build/tests/libshim.so" ;;
    writes2) echo "tests/campaign/writes.py $build/dtrain $build/tests/libshim.so --ranks 2" ;;
    disks) echo "sh tests/campaign/disks.sh $build/dtrain" ;;
    damage) echo "$build/tests/damage 20000 $seed" ;;
    soak) echo "tests/campaign/soak.py $build/dtrain" ;;
    resume) echo "sh tests/test_resume.sh $build/dtrain full" ;;
    hangs) echo "sh tests/test_watchdog.sh $build/dtrain $build/tests/dtrain_hang full" ;;
    *) return 1 ;;
    esac
}

run_part() # PART
{
    began=$(date +%s)
    command=$(command_of "$1") || {
        echo "run.sh: there is no part $1" >&2
        exit 2
    }
    # shellcheck disable=SC2086 # a list
    if $command >"$log" 2>&1; then
        echo "$1 (seed $seed, $(($(date +%s) - began)) s): $(tail -n 1 "$log")"
    else
        echo "FAILED: $1: $command"
        cat "$log"
        failures=$((failures + 1))
    fi
}

case $form in
short)
    exec meson test -C "$build" --no-rebuild --suite campaign
    ;;
long)
    [ $# -gt 0 ] || set -- kills writes writes2 disks damage soak resume hangs
    for part in "$@"; do
        run_part "$part"
    done
    [ "$failures" -eq 0 ]
    ;;
*)
    echo "run.sh: short or long, not $form" >&2
    exit 2
    ;;
esac
