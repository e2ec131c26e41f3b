#!/bin/sh
# test_train.sh DTRAIN: a short real training reaches its error, on 1, 2 and 4 ranks: the built-in
# digits, and MNIST where DTRAIN_DATA has it.
set -eu
dtrain=$1
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

value() # NAME: what stands behind "NAME: "
{
    sed -n "s/^$1: //p" "$out"
}
at_most() # PERCENT LIMIT
{
    echo "$1" | awk -v limit="$2" '{ exit !($1 != "" && $1 + 0 <= limit) }'
}

# 300 steps of the default training. Measured over 5 seeds: MNIST 3.0 to 3.6 % of the test set; an
# untrained network errs on about 90 %.
train() # RANKS DATA LIMIT
{
    job "$1" --data "$2" --steps 300 --eval-every 100 --checkpoint-dir none
    check 'trains' [ "$status" -eq 0 ]
    check "$1 ranks on $2: test error $(value 'Test error') is at most $3%" \
        at_most "$(value 'Test error')" "$3"
}

data=${DTRAIN_DATA:-synthetic:20000}
unset DTRAIN_DATA
job 1 --data "$data" --steps 1 --checkpoint-dir none
check 'an untrained network guesses' at_most 60 "$(value 'Test error')"
# The loss of the tutorial's first report: 8.3, give or take the seed's dice.
loss=$(sed -n 's/^Minibatch loss: \([0-9.]*\),.*/\1/p' "$out")
check "first loss $loss is below 12" at_most "$loss" 12
check "first loss $loss is above 5" at_most 5 "$loss"

for ranks in 1 2 4; do
    train $ranks "$data" 5
done
first=$(value Weights)
train 4 "$data" 5
check 'the same weights again on 4 ranks' [ "$(value Weights)" = "$first" ]
finish
