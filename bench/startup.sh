#!/bin/bash
# startup.sh: what it takes to start on 1 to 64 ranks of this host: seconds from the launcher to the
# first step, memory while training, files opened and bytes read. Beside it, where the peers' PyTorch
# (peers/compare.sh) or that of $PYTHON is installed, python -c "import torch". MNIST where it can be
# found, else the built-in digits.
#
#   bench/startup.sh [--launcher 'srun -N 1 -n'] [RANKS]...     1 2 4 8 16 32 64 unless given
#
# The launcher is mpirun unless given; the number of ranks and dtrain follow it. Uses
# build/release, and strace. The seconds are medians of 5 starts.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=jobs/lib/common.sh
. "$root/jobs/lib/common.sh"
launcher=(mpirun --bind-to none -n) repeats=5
case ${1:-} in
-h | --help)
    sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$0"
    exit 0
    ;;
--launcher)
    read -ra launcher <<<"${2:?}"
    shift 2
    ;;
esac
[[ $# -gt 0 ]] || set -- 1 2 4 8 16 32 64
for ranks in "$@"; do
    [[ $ranks =~ ^[1-9][0-9]*$ ]] || die 2 "startup.sh: '$ranks' is no number of ranks (see --help)"
done
command -v strace >/dev/null || die 1 "startup.sh: no strace (Debian: apt-get install strace)"
build release dtrain --buildtype=release || die 1 "the build failed (log: build/release.log)"
mpi_environment
find_data
dtrain=$root/build/release/dtrain
data=${DTRAIN_DATA:-synthetic}
training=(--data "$data" --batch-size 64 --threads 1 --validation-size 0 --checkpoint-dir none)
work=$(mktemp -d "${TMPDIR:-/tmp}/dtrain-startup.XXXXXX")
trap 'rm -rf "$work"' EXIT

now()
{
    date +%s.%N
}

median()
{
    sort -g | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}

failed() # RANKS
{
    die 1 "startup.sh: dtrain failed on $1 ranks: $(tail -n 2 "$work/errors")"
}

# Seconds until the plan is done: the first step is next.
ready() # RANKS
{
    local begin line end=''
    begin=$(now)
    while read -r line; do
        [[ -n $end || $line != 'Ready after'* ]] || end=$(now)
    done < <("${launcher[@]}" "$1" "$dtrain" "${training[@]}" --steps 1 2>>"$work/errors")
    [[ -n $end ]] || failed "$1"
    awk -v begin="$begin" -v end="$end" 'BEGIN { print end - begin }'
}

# The ranks' memory while they train, in MiB: pages that several share count once in all.
memory() # RANKS
{
    local line process
    : >"$work/memory"
    while read -r line; do
        [[ $line == 'Step 10 '* ]] || continue
        for process in /proc/[0-9]*; do
            [[ $(readlink "$process/exe" 2>/dev/null) != "$dtrain" ]] ||
                awk '/^Pss:/ { print $2 / 1024 }' "$process/smaps_rollup"
        done >"$work/memory"
    done < <("${launcher[@]}" "$1" "$dtrain" "${training[@]}" --steps 300 --eval-every 10 \
        2>>"$work/errors")
    [[ -s $work/memory ]] || failed "$1"
    awk '{ sum += $1 } END { print sum / NR }' "$work/memory"
}

# Adds up traces of strace: files opened, per trace, and MiB read by all, of them from the data. What
# is in /proc, /sys and /dev is no file.
files() # TRACE...
{
    awk -v data="<$data/" '
        $NF ~ /<\/(proc|sys|dev)\// || /[0-9]<\/(proc|sys|dev)\// { next }
        / open(at)?\(/ && !/ = -1 / { opened++ }
        / (read|pread64|readv)\(/ && $NF > 0 {
            bytes += $NF
            if (index($0, data)) from_data += $NF
        }
        END { printf "%d | %.1f | %.1f", opened / (ARGC - 1), bytes / 2^20, from_data / 2^20 }' "$@"
}

trace() # TRACE COMMAND...
{
    strace -qq -f -y -e trace=open,openat,read,pread64,readv -e signal=none -o "$@"
}
export -f trace

row() # NAME RANKS SECONDS MEMORY
{
    printf '| %s | %s | %.2f | %.0f | %s |\n' "$@" "$(files "$work"/trace.*)"
    rm -f "$work"/trace.*
}

echo '| what | ranks | s to the first step | MiB a rank | files a rank opens | MiB all read | of data |'
echo '| --- | --- | --- | --- | --- | --- | --- |'
for ranks in "$@"; do
    # shellcheck disable=SC2016 # for the inner shell
    "${launcher[@]}" "$ranks" bash -c 'trace "$0.$$" "$@"' "$work/trace" "$dtrain" \
        "${training[@]}" --steps 1 >"$work/output" 2>>"$work/errors" || failed "$ranks"
    seconds=$(for ((i = 0; i < repeats; i++)); do ready "$ranks"; done | median)
    row dtrain "$ranks" "$seconds" "$(memory "$ranks")"
done

python=${PYTHON:-$root/build/peers/torch/bin/python}
if "$python" -c 'import torch' 2>/dev/null; then
    import=(-c 'import torch; print(open("/proc/self/smaps_rollup").read())')
    trace "$work/trace.torch" "$python" "${import[@]}" | awk '/^Pss:/ { print $2 / 1024 }' >"$work/memory"
    seconds=$(for ((i = 0; i < repeats; i++)); do
        begin=$(now)
        "$python" "${import[@]}" >"$work/output"
        awk -v begin="$begin" -v end="$(now)" 'BEGIN { print end - begin }'
    done | median)
    row 'python -c "import torch"' 1 "$seconds" "$(cat "$work/memory")"
fi
