#!/bin/sh
# run.sh: builds dtrain three times and runs the tests of the builds.
#
#   sh tests/run.sh [SUITE]...     suites: unit, mpi, cli, slurm, ...; without any, all
#
# The builds are build/test (warnings are errors), build/sanitize (address and undefined behaviour
# sanitizers) and build/threads (thread sanitizer; the unit tests that have threads). What is missing
# to build is installed first, as in jobs/quickstart.sh.
# Tests that want real MNIST take the folder in $DTRAIN_DATA and are skipped without one. The last
# line is 'N passed, N failed', summed over the builds; a build that fails counts as a failed
# test. The exit status is 0 only if nothing failed.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=jobs/lib/common.sh
. "$root/jobs/lib/common.sh"
# shellcheck source=jobs/lib/packages.sh
. "$root/jobs/lib/packages.sh"

case ${1:-} in
-h | --help)
    sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$0"
    exit 0
    ;;
-*) die 2 "unknown option $1: tests/run.sh takes names of test suites (see --help)" ;;
esac

passed=0 failed=0 skipped=0

# count EXPRESSION FILE: how many tests of a Meson log, one a line, ended in this way.
count()
{
    grep -cE "\"result\": \"($1)\"" "$2" || true
}

# test_build NAME SUITE...: runs the tests in build/NAME and adds to the counts.
test_build()
{
    build_name=$1
    shift
    log=$root/build/$build_name/meson-logs/testlog.json
    suites=
    for suite in "$@"; do
        suites="$suites --suite $suite"
    done
    rm -f "$log"
    say "tests of build/$build_name"
    status=0
    # Sanitizers on a busy machine are slow; the time limits are there to end hangs.
    # shellcheck disable=SC2086 # a list
    CK_TIMEOUT_MULTIPLIER=5 meson test -C "$root/build/$build_name" --no-rebuild --print-errorlogs \
        --timeout-multiplier 5 $suites </dev/null || status=$?
    if [ ! -s "$log" ]; then
        say "no test of build/$build_name was run${suites:+ (is that the name of a suite?)}"
        failed=$((failed + 1))
        return
    fi
    build_passed=$(count 'OK|EXPECTEDFAIL' "$log")
    build_skipped=$(count 'SKIP' "$log")
    build_failed=$(($(wc -l <"$log") - build_passed - build_skipped))
    if [ "$status" -ne 0 ] && [ "$build_failed" -eq 0 ]; then
        say "meson test of build/$build_name ended with status $status"
        build_failed=1
    fi
    passed=$((passed + build_passed))
    failed=$((failed + build_failed))
    skipped=$((skipped + build_skipped))
}

# make_and_test NAME TARGET MESON_OPTIONS SUITE...
make_and_test()
{
    build_name=$1
    target=$2
    options=$3
    shift 3
    say "building build/$build_name"
    # shellcheck disable=SC2086 # a list
    if build "$build_name" "$target" $options; then
        test_build "$build_name" "$@"
    else
        tail -n 60 "$root/build/$build_name.log" >&2
        say "building build/$build_name failed (log: $root/build/$build_name.log)"
        failed=$((failed + 1))
    fi
}

mkdir -p "$root/build" || die 74 "cannot write to $root"
# shellcheck disable=SC2086 # a list
packages_ensure 'to build and test dtrain' "$root/build/packages.log" $PACKAGES_BUILD check || exit

find_data
mpi_environment
# What the sanitizer of undefined behaviour finds ends a test, as with the other one.
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}"

checked='--buildtype=debugoptimized -Dgpu=disabled' # the plugin itself runs on GPUs alone
make_and_test test all '--buildtype=debugoptimized -Dwerror=true' "$@"
make_and_test sanitize all "$checked -Db_sanitize=address,undefined" "$@"
case " ${*:-unit} " in
*' unit '*)
    make_and_test threads threaded_tests "$checked -Db_sanitize=thread" threads
    ;;
esac

summary="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || summary="$summary, $skipped skipped"
echo "$summary"
[ "$failed" -eq 0 ]
