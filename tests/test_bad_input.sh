#!/bin/sh
# test_bad_input.sh DTRAIN: whatever is wrong, there is one clear line, the right exit status and no
# hang, on 1 and 3 ranks (1 alone without MPI).
set -eu
dtrain=$1
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

# A data set of 40 training and 20 test images of 4x4, made with printf alone.
bytes() # COUNT VALUE
{
    head -c "$1" /dev/zero | tr '\0' "$2"
}
make_data() # FOLDER
{
    mkdir -p "$1"
    { printf '\0\0\10\3\0\0\0\50\0\0\0\4\0\0\0\4'; bytes 640 '\7'; } >"$1/train-images-idx3-ubyte"
    { printf '\0\0\10\1\0\0\0\50'; bytes 40 '\3'; } >"$1/train-labels-idx1-ubyte"
    { printf '\0\0\10\3\0\0\0\24\0\0\0\4\0\0\0\4'; bytes 320 '\7'; } >"$1/t10k-images-idx3-ubyte"
    { printf '\0\0\10\1\0\0\0\24'; bytes 20 '\3'; } >"$1/t10k-labels-idx1-ubyte"
}
printf 'input 4 4 1\nconv 3 3x3 relu\ndense 10\n' >"$work/net"
make_data "$work/good"
tiny="--model net --validation-size 8 --checkpoint-dir none --epochs 1"

for ranks in 1 ${several:+3}; do
    # shellcheck disable=SC2086 # options are a list
    {
        job $ranks --data good $tiny
        check "the good data set trains" [ "$status" -eq 0 ]

        # Options
        job $ranks --bogus
        expect_failure 2 'unknown option --bogus'
        job $ranks --batch-size 0
        expect_failure 2 '--batch-size'
        job $ranks --batch-size 7
        expect_failure 2 'not a multiple of 8 shards'
        job $ranks --batch-size 64x
        expect_failure 2 '64x'
        job $ranks --lr
        expect_failure 2 '--lr'
        job $ranks --lr-schedule exp:nine
        expect_failure 2 'exp:nine'
        job $ranks words
        expect_failure 2 'words'
        job $ranks --data synthetic:100 --validation-size 99
        expect_failure 2 'validation'
        job $ranks eval
        expect_failure 2 'CHECKPOINT'

        # Data
        mkdir -p "$work/empty"
        job $ranks --data empty
        expect_failure 65 'train-images-idx3-ubyte'
        job $ranks --data nowhere
        expect_failure 65 'nowhere'
        job $ranks --data net
        expect_failure 65 'net'
        job $ranks --data synthetic:0
        expect_failure 65 'synthetic:0'

        rm -rf "$work/bad" && make_data "$work/bad"
        gzip "$work/bad/train-images-idx3-ubyte"
        size=$(wc -c <"$work/bad/train-images-idx3-ubyte.gz")
        head -c $((size - 10)) "$work/bad/train-images-idx3-ubyte.gz" >"$work/cut"
        mv "$work/cut" "$work/bad/train-images-idx3-ubyte.gz"
        job $ranks --data bad $tiny
        expect_failure 65 'train-images-idx3-ubyte.gz'

        rm -rf "$work/bad" && make_data "$work/bad"
        mv "$work/bad/train-images-idx3-ubyte" "$work/bad/swap"
        mv "$work/bad/train-labels-idx1-ubyte" "$work/bad/train-images-idx3-ubyte"
        mv "$work/bad/swap" "$work/bad/train-labels-idx1-ubyte"
        job $ranks --data bad $tiny
        expect_failure 65 'labels'

        rm -rf "$work/bad" && make_data "$work/bad"
        { printf 'PNG!'; bytes 700 '\1'; } >"$work/bad/t10k-images-idx3-ubyte"
        job $ranks --data bad $tiny
        expect_failure 65 't10k-images-idx3-ubyte'

        # The last rank alone reads the bad label.
        rm -rf "$work/bad" && make_data "$work/bad"
        { printf '\0\0\10\1\0\0\0\50'; bytes 39 '\3'; printf '\12'; } \
            >"$work/bad/train-labels-idx1-ubyte"
        job $ranks --data bad $tiny
        expect_failure 65 'label'

        rm -rf "$work/bad" && make_data "$work/bad"
        rm "$work/bad/t10k-labels-idx1-ubyte" && mkdir "$work/bad/t10k-labels-idx1-ubyte"
        job $ranks --data bad $tiny
        expect_failure 65 't10k-labels-idx1-ubyte'

        DTRAIN_DATA=$work/wrong job $ranks
        expect_failure 65 'DTRAIN_DATA'

        # Models
        job $ranks --data good --model unknown-net
        expect_failure 65 'unknown-net'
        printf 'input 4 4 1\n\nconv 8 5y5\ndense 10\n' >"$work/badnet"
        job $ranks --data good --model badnet
        expect_failure 65 'line 3'
        job $ranks --data good --validation-size 8
        expect_failure 65 '28x28x1'

        # Checkpoints
        job $ranks eval nowhere.h5
        expect_failure 65 'nowhere.h5'
        job $ranks eval net --data good
        expect_failure 65 'net'
        rm -rf "$work/gone" "$work/run" && make_data "$work/gone"
        job 1 --data gone $tiny --checkpoint-dir run
        rm -rf "$work/gone"
        job $ranks eval run
        expect_failure 65 'gone'
        expect_failure 65 'named by the checkpoint; --data names another place'
        : >"$work/file"
        job $ranks --data good $tiny --checkpoint-dir file/runs
        expect_failure 74 'file'
    }
done

# A file that only root may read; root reads it, so there is nothing to see then.
if [ "$(id -u)" -ne 0 ]; then
    rm -rf "$work/bad" && make_data "$work/bad"
    chmod 000 "$work/bad/train-images-idx3-ubyte"
    # shellcheck disable=SC2086
    job 1 --data bad $tiny
    expect_failure 65 'Permission denied'
fi

# Started by another launcher than MPI's own: each process would be rank 0 of 1.
for launcher in 'OMPI_COMM_WORLD_SIZE=4' 'PMI_SIZE=4'; do
    last=$launcher
    status=0
    (cd "$work" && env "$launcher" timeout 60 "$dtrain" --data synthetic:100) \
        </dev/null >"$out" 2>"$err" || status=$?
    expect_failure 69 'rank 0 of 1'
done
last='SLURM_STEP_NUM_TASKS=4' status=0
(cd "$work" && SLURM_STEP_NUM_TASKS=4 timeout 60 "$dtrain" --data synthetic:100) \
    </dev/null >"$out" 2>"$err" || status=$?
expect_failure 69 'srun started 4 processes'
check 'says what to do' grep -qE 'try srun --mpi=pmix|built without MPI' "$err"

# What needs several ranks.
[ -n "$several" ] || finish

# More ranks than there are samples in a batch, shards, or training samples.
job 3 --batch-size 2 --data synthetic:100
expect_failure 2 'at least one sample'
job 3 --shards 2 --data synthetic:100
expect_failure 2 'shard'
job 3 --data synthetic:2 --validation-size 0
expect_failure 2 'shards'

# One rank of three fails alone, in each phase: all end, with its line once.
# (By a script that knows its rank: mpirun of Open MPI 5.0.7 crashes on "-n 1 ONE : -n 2 OTHER".)
cat >"$work/mixed" <<'SCRIPT'
#!/bin/sh
# mixed DTRAIN GOOD-OPTIONS -- BAD-OPTIONS: rank 1 gets the bad ones on top of the good ones.
rank=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-${PMIX_RANK:-0}}}
dtrain=$1
good=$2
shift 3
# shellcheck disable=SC2086
[ "$rank" -eq 1 ] || exec "$dtrain" $good
# shellcheck disable=SC2086
exec "$dtrain" $good "$@"
SCRIPT
chmod +x "$work/mixed"
mixed() # BAD-OPTIONS
{
    last="rank 1 of 3 with $*"
    status=0
    (cd "$work" && timeout 120 "$mpirun" --bind-to none -n 3 ./mixed "$dtrain" "--data good $tiny" -- \
        "$@") </dev/null >"$out" 2>"$err" || status=$?
}
mixed --bogus
expect_failure 2 'rank 1 on '
mixed --batch-size 12
expect_failure 69 'rank 1 on '
mixed --data empty
expect_failure 65 'rank 1 on '
mixed --model badnet
expect_failure 65 'rank 1 on '

# A rank that is killed in the middle of a step takes the job with it, at once.
last='one of 3 ranks is killed' status=0
# shellcheck disable=SC2086
(cd "$work" && exec timeout 60 "$mpirun" --bind-to none -n 3 "$dtrain" --data good --model net \
    --validation-size 8 --checkpoint-dir none --steps 100000000) </dev/null >"$out" 2>"$err" &
job=$!
waited=0
until grep -q '^Step 100 ' "$out" || [ $waited -ge 300 ]; do
    sleep 0.1
    waited=$((waited + 1))
done
for process in /proc/[0-9]*; do
    if grep -qsx "$(basename "$dtrain")" "$process/comm" &&
        tr '\0' ' ' <"$process/cmdline" | grep -q -- ' --steps 100000000'; then
        killed=${process#/proc/}
    fi
done
kill -KILL "$killed"
wait $job || status=$?
check 'a killed rank ends the job' [ "$status" -eq 137 ]

# Innermost wins: mpirun -n 1 inside of a Slurm step of two tasks is fine.
last='mpirun -n 1 in a Slurm step of 2' status=0
# shellcheck disable=SC2086
(cd "$work" && SLURM_STEP_NUM_TASKS=2 timeout 60 "$mpirun" --bind-to none -n 1 "$dtrain" \
    --data good $tiny) </dev/null >"$out" 2>"$err" || status=$?
check 'mpirun -n 1 in a Slurm step of 2 runs' [ "$status" -eq 0 ]

finish
