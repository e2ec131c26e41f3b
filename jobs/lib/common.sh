# common.sh: what the scripts around dtrain share. Sourced after setting `root` to the checkout.
#
#   say TEXT...                         one line on stderr
#   die STATUS TEXT...                  the same, then exit STATUS
#   mpi_environment                     lets mpirun work on a small machine and in a container
#   find_data                           for tests: sets DTRAIN_DATA if MNIST is where it may be
#   cores                               prints how many cores this process may use
#   build NAME TARGET [MESON OPTION]... configures build/NAME unless that is done, builds TARGET
# shellcheck shell=sh

say()
{
    printf 'dtrain: %s\n' "$*" >&2
}

die()
{
    die_status=$1
    shift
    say "$@"
    exit "$die_status"
}

# More ranks than cores are fine for a trial or a test. Open MPI 4 reads the first variable,
# Open MPI 5 the second; both refuse to run as root, which is what containers do, unless told.
# Outside a job all ranks are on this machine and need no network; Open MPI 5 complains about some.
# (OMPI_MCA_btl would put Debian's own settings aside and cost a second per start.)
mpi_environment()
{
    export OMPI_MCA_rmaps_base_oversubscribe=1
    export PRTE_MCA_rmaps_default_mapping_policy=slot:oversubscribe
    if [ "$(id -u)" -eq 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    if [ -z "${SLURM_JOB_ID:-}${PBS_JOBID:-}${LSB_JOBID:-}" ]; then
        export OMPI_MCA_btl_tcp_if_include="${OMPI_MCA_btl_tcp_if_include:-127.0.0.1/8}"
    fi
}

# MNIST in the checkout, or in a data folder that several checkouts share.
# shellcheck disable=SC2154 # root is set by whoever sources this
find_data()
{
    for data_folder in "$root/data/mnist" "$root/../shared/data/mnist"; do
        if [ -z "${DTRAIN_DATA:-}" ] && [ -d "$data_folder" ]; then
            DTRAIN_DATA=$(CDPATH='' cd -- "$data_folder" && pwd)
            export DTRAIN_DATA
        fi
    done
}

# nproc knows the affinity mask, but takes OMP_NUM_THREADS for the answer where that is set.
cores()
{
    env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || echo 1
}

# The log is build/NAME.log. A folder that was configured here with other options, by another compiler
# or before the checkout was moved is made anew; one that was configured by hand stays as it is. TARGET
# all is everything.
# shellcheck disable=SC2154 # root is set by whoever sources this
build()
(
    folder=$root/build/$1
    log=$folder.log
    target=$2
    shift 2
    configuration="$root ${CC:-cc} $*"
    : >"$log" || return 1
    if [ ! -f "$folder/build.ninja" ] || { [ -f "$folder/configuration" ] &&
        [ "$(cat "$folder/configuration")" != "$configuration" ]; }; then
        rm -rf "$folder"
        meson setup "$folder" "$root" "$@" >>"$log" 2>&1 || return 1
        echo "$configuration" >"$folder/configuration"
    fi
    if [ "$target" = all ]; then
        meson compile -C "$folder" >>"$log" 2>&1
    else
        meson compile -C "$folder" "$target" >>"$log" 2>&1
    fi
)
