#!/bin/sh
# quickstart.sh: from a fresh checkout to a trained network, on this machine.
#
#   sh jobs/quickstart.sh [OPTION OF DTRAIN]...     for example: --epochs 10
#   sh jobs/quickstart.sh --check                   says what is missing to build, and does nothing
#
# Installs what is missing to build (Debian, Ubuntu; elsewhere it says what to install), builds
# build/release/dtrain and trains one epoch on two ranks (one on a machine with a single core). The
# data is --data, else $DTRAIN_DATA, else data/mnist here or in the checkout, else built-in
# synthetic digits; jobs/fetch-mnist.sh downloads MNIST. Paths are relative to the current folder.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=jobs/lib/common.sh
. "$root/jobs/lib/common.sh"
# shellcheck source=jobs/lib/packages.sh
. "$root/jobs/lib/packages.sh"

# One epoch, unless the options say how long.
length='--epochs=1'
for option in "$@"; do
    case $option in
    -h | --help)
        sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$0"
        exit 0
        ;;
    --check)
        # shellcheck disable=SC2086 # a list
        packages_check 'to build dtrain' $PACKAGES_BUILD && say 'nothing is missing to build dtrain'
        exit
        ;;
    --epochs | --epochs=* | --steps | --steps=*) length= ;;
    esac
done

mkdir -p "$root/build" || die 74 "cannot write to $root; copy the checkout to a folder of yours"
# shellcheck disable=SC2086 # a list
packages_ensure 'to build dtrain' "$root/build/packages.log" $PACKAGES_BUILD || exit
[ -x "$root/build/release/dtrain" ] || say "building build/release/dtrain"
build release program --buildtype=release ||
    die 1 "building dtrain failed; the reason is at the end of $root/build/release.log"

if [ -z "${DTRAIN_DATA:-}" ] && [ ! -e data/mnist ] && [ -e "$root/data/mnist" ]; then
    export DTRAIN_DATA="$root/data/mnist"
fi
command -v mpirun >/dev/null || die 69 "built; there is no mpirun here: start it as the cluster does," \
    "srun -n 2 $root/build/release/dtrain"
ranks=2
[ "$(cores)" -ge 2 ] || ranks=1
mpi_environment
# Interrupted, Open MPI gives the ranks a second to end; a checkpoint may need more.
export OMPI_MCA_odls_base_sigkill_timeout=5 PRTE_MCA_odls_base_sigkill_timeout=5
exec mpirun --bind-to none -n "$ranks" "$root/build/release/dtrain" ${length:+"$length"} "$@" \
    </dev/null
