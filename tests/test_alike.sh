#!/bin/sh
# test_alike.sh DTRAIN OTHER: ranks that are not alike are named before they can do harm. OTHER is
# another build of the program.
set -eu
dtrain=$1
other=$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

printf 'input 28 28 1\ndense 10\n' >"$work/net"
printf 'input 28 28 1\ndense 5 relu\ndense 10\n' >"$work/other-net"
set -- --data synthetic:200 --validation-size 20 --steps 2 --checkpoint-dir none

# odd RANKS PROGRAM OPTION...: a job whose rank 1 runs PROGRAM, with those options behind the others
program=$dtrain
odd()
{
    odd_ranks=$1 odd_program=$2
    shift 2
    cat >"$work/wrapped" <<EOT
#!/bin/sh
[ "\${OMPI_COMM_WORLD_RANK:-\${PMI_RANK:-0}}" = 1 ] || exec "$program" "\$@"
exec "$odd_program" "\$@" $*
EOT
    chmod +x "$work/wrapped"
    dtrain=$work/wrapped
}
# shellcheck disable=SC2086 # a list
run()
{
    job "$odd_ranks" "$@"
    dtrain=$program
}

odd 3 "$program"
run "$@" --model net
check 'ranks that are alike train' [ "$status" -eq 0 ]

odd 3 "$program" --threads 2 --isa baseline
run "$@" --model net --threads 1
check 'threads and instruction sets are a rank'"'"'s own' [ "$status" -eq 0 ]

odd 3 "$other"
run "$@" --model net
expect_failure 69 'rank 1 on'
check 'names the build' one_line_with 'runs another build of dtrain than the other ranks'

odd 4 "$program" --lr 0.5
run "$@" --model net
expect_failure 69 'rank 1 on'
check 'names the option' one_line_with 'it was started with --lr 0.5, other ranks were not'

odd 2 "$program" --steps 3
run "$@" --model net
expect_failure 69 'it was started with --steps 3, other ranks were not'

odd 3 "$program" --model other-net
run "$@" --model net
expect_failure 65 'its network is not the other ranks'

odd 3 "$program" --data synthetic:300
run "$@" --model net
expect_failure 65 'synthetic digits has 300 training and 50 test images'

finish
