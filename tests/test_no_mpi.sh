#!/bin/sh
# test_no_mpi.sh DTRAIN OTHER: dtrain without an MPI library. It needs none, trains on one rank what
# OTHER, which has one, trains, says that it has none, and is not started several times unawares.
set -eu
dtrain=$1
other=$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

weights()
{
    sed -n 's/^Weights: //p' "$out"
}

last='' status=0
: >"$err"
ldd "$dtrain" >"$out"
check 'needs no MPI library' [ "$(grep -c 'libmpi' "$out")" -eq 0 ]
"$dtrain" --version >"$out"
check 'version says so' grep -qE '^dtrain [0-9.]+ \(no MPI: a job has one rank\)$' "$out"

printf 'input 28 28 1\nconv 4 3x3 relu\nmaxpool 2\ndense 16 relu\ndropout 0.5\ndense 10\n' >"$work/net"
set -- --data synthetic:1003 --model net --validation-size 100 --steps 21 --eval-every 10 --threads 2
job 1 "$@" --checkpoint-dir ckpt
check 'trains' [ "$status" -eq 0 ]
check 'the plan says so' grep -qE '^dtrain [0-9.]+ on 1 rank x 2 threads, 1 host \(.*\), no MPI$' "$out"
check 'nothing to complain about' [ ! -s "$err" ]
expected=$(weights)
job 1 "$@" --checkpoint-dir none --reduce allreduce
check 'the same weights by all-reduce' [ "$(weights)" = "$expected" ]
job 1 eval ckpt --data synthetic:1003
check 'the same weights from the checkpoint' [ "$(weights)" = "$expected" ]
last=$other
(cd "$work" && "$other" "$@" --checkpoint-dir none) </dev/null >"$out" 2>"$err"
check 'the same weights with MPI' [ "$(weights)" = "$expected" ]

for launcher in 'OMPI_COMM_WORLD_SIZE=2' 'PMI_SIZE=2' 'PMIX_SIZE=2' 'SLURM_STEP_NUM_TASKS=2'; do
    last=$launcher status=0
    (cd "$work" && env "$launcher" timeout 60 "$dtrain" "$@") </dev/null >"$out" 2>"$err" || status=$?
    expect_failure 69 'was built without MPI'
    (cd "$work" && env "${launcher%2}1" timeout 60 "$dtrain" "$@" --dry-run) </dev/null >"$out" 2>"$err"
    check "${launcher%2}1 trains" grep -q '^Ready' "$out"
done

finish
