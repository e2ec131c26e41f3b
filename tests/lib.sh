# lib.sh: what the shell tests share. Sourced after setting `dtrain` to the program.
#
#   job RANKS OPTION...          dtrain under mpirun, or alone; output in $out, errors in $err, status
#                                in $status. Without MPI there is one rank, with the same bits
#   start RANKS OPTION...        the same in the background, as $job, until it is waited for
#   wait_for TEXT [FILE]         until FILE ($out) has TEXT; false after half a minute
#   send SIGNAL RANK...          to ranks of the job that was started
#   $several                     empty without MPI: what needs several ranks is left out
#   expect_failure STATUS TEXT   the last job ended so, with one line of its own that holds TEXT
#   check TEXT CONDITION...      counts a check; CONDITION is a command
#   finish                       prints the counts, ends the test
# shellcheck shell=sh

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=slot:oversubscribe
# The launcher of the MPI library that the program was built with.
mpirun=${MPIRUN:-mpirun}
# MPI keeps memory until the process ends; the status stays the program's own.
export ASAN_OPTIONS=detect_leaks=0

# The program is started from another folder.
# shellcheck disable=SC2154 # dtrain is set by whoever sources this
dtrain=$(CDPATH='' cd -- "$(dirname -- "$dtrain")" && pwd)/$(basename -- "$dtrain")

several=yes
"$dtrain" --version | grep -qv 'no MPI' || several=

work=$(mktemp -d)
trap 'chmod -R u+rwx "$work"; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
out=$work/out err=$work/err
checks=0 failures=0
last=

check()
{
    check_text=$1
    shift
    checks=$((checks + 1))
    "$@" && return
    failures=$((failures + 1))
    [ "$failures" -le 10 ] || return 0 # enough to see what is wrong
    echo "FAILED: $check_text ($*)"
    [ -z "$last" ] || echo "  after: $last (status $status)"
    sed 's/^/  stdout: /' "$out" | tail -n 5
    awk '{ line[NR] = $0 } # the first and the last ones
        END { for (i = 1; i <= NR; i++) if (i <= 8 || i > NR - 8) print "  stderr: " line[i] }' "$err"
}

# A job that hangs is killed after two minutes, with status 137. One rank needs no mpirun, which takes
# longer to start than most of these jobs.
job()
{
    ranks=$1
    shift
    last="$ranks ranks: $*"
    status=0
    launcher="$mpirun --bind-to none -n $ranks"
    [ "$ranks" -gt 1 ] && [ -n "$several" ] || launcher=
    # shellcheck disable=SC2086 # a list
    (cd "$work" && timeout -s KILL 120 $launcher "$dtrain" "$@") </dev/null >"$out" 2>"$err" ||
        status=$?
}

# The ranks' process numbers are in $work/pid.RANK.
# shellcheck disable=SC2034 # job is for those who source this
start()
{
    ranks=$1
    shift
    last="$ranks ranks: $*"
    rm -f "$work"/pid.*
    : >"$out"
    # shellcheck disable=SC2016 # for the ranks' own shells
    (cd "$work" && exec timeout 120 "$mpirun" --bind-to none -n "$ranks" sh -c \
        'echo $$ >pid.${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-$PMIX_RANK}}; exec "$@"' sh "$dtrain" "$@") \
        </dev/null >"$out" 2>"$err" &
    job=$!
}

wait_for()
{
    tries=0
    while ! grep -q -- "$1" "${2:-$out}"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || return 1
        sleep 0.05
    done
}

send()
{
    signal=$1
    shift
    for receiver in "$@"; do
        kill -s "$signal" "$(cat "$work/pid.$receiver")"
    done
}

one_line_with()
{
    [ "$(grep -c '^dtrain: ' "$err")" -eq 1 ] && grep '^dtrain: ' "$err" | grep -qF -- "$1"
}

expect_failure()
{
    check "exit status $1" [ "$status" -eq "$1" ]
    check "one line that says '$2'" one_line_with "$2"
}

finish()
{
    echo "$checks checks, $failures failed"
    [ "$checks" -gt 0 ] && [ "$failures" -eq 0 ]
    exit
}
