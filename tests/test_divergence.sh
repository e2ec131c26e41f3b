#!/bin/sh
# test_divergence.sh DTRAIN SHIM: a replica that no longer holds what the others hold is named and
# ends the job. SHIM (mpi_flip_bit.c) flips one bit in one message between ranks.
set -eu
dtrain=$1
shim=$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

# The shim is for the program alone, not for mpirun. Where there are sanitizers, their library comes
# second then, which is fine.
export ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0
printf '#!/bin/sh\nLD_PRELOAD="%s" exec "%s" "$@"\n' "$shim" "$dtrain" >"$work/faulty"
chmod +x "$work/faulty"
dtrain=$work/faulty

printf 'input 28 28 1\nconv 4 5x5 relu\nmaxpool 4\ndense 10\n' >"$work/net"
# With one bucket and no shared memory a rank of four sends four messages a step: sums to two
# others, then parameters to two others. The last one of these reaches one rank alone, and is
# replaced by the next step's: it must be one of the step that is checked.
train() # RANKS MESSAGE OPTION...: rank 1's message of that number is damaged
{
    ranks=$1
    export DTRAIN_TEST_FLIP="1:$2"
    shift 2
    job "$ranks" --data synthetic:1000 --validation-size 100 --model net --threads 1 \
        --window-ranks 1 --bucket-bytes 60000000 --steps 30 --eval-every 10 "$@"
}

train 4 0 --checkpoint-dir none
check 'a sound network trains' [ "$status" -eq 0 ]
hash=$(sed -n 's/^Weights: //p' "$out")

train 4 44 --checkpoint-dir good --checkpoint-every 8
expect_failure 1 'rank 0 on '
check 'says what' grep -q 'its parameters after step 10 differ from those of the other ranks' "$err"
check 'the report before it is there' grep -q '^Step 10 ' "$out"
check 'ends the training' [ -z "$(sed -n 's/^Weights: //p' "$out")" ]
check 'earlier checkpoints stay' [ -f "$work/good/ckpt-s000000008.h5" ]

# Of two ranks nobody knows which one is right.
train 2 22 --checkpoint-dir none
expect_failure 1 'rank 1 on '

# A damaged sum is everybody's, which no comparison can see: the hash shows that the bit mattered.
train 4 22 --checkpoint-dir none
check 'a damaged sum is not seen' [ "$status" -eq 0 ]
check 'but was there' [ "$(sed -n 's/^Weights: //p' "$out")" != "$hash" ]
finish
