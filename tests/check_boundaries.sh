#!/bin/sh
# check_boundaries.sh: the rules on which file may know what, kept by searching the sources.
#
#   sh tests/check_boundaries.sh [CHECKOUT]     lists what breaks a rule; exit status 1 if any does
set -eu

cd "${1:-$(dirname -- "$0")/..}"
failures=0

# sources PATH...: the C, C++ and CUDA files of those folders, or files, that exist.
sources()
{
    for path in "$@"; do
        [ ! -e "$path" ] ||
            find "$path" -type f \( -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \)
    done | sort
}

# Takes comments out and prints FILE:LINE:CODE. Good enough for C without "/*" in its strings.
code()
{
    # shellcheck disable=SC2016
    xargs -r awk '
        FNR == 1 { inside = 0 }
        {
            line = $0
            out = ""
            while (line != "") {
                if (inside) {
                    at = index(line, "*/")
                    if (!at) break
                    line = substr(line, at + 2)
                    inside = 0
                } else {
                    at = index(line, "/*")
                    if (!at) { out = out line; break }
                    out = out substr(line, 1, at - 1) " "
                    line = substr(line, at + 2)
                    inside = 1
                }
            }
            sub(/\/\/.*/, "", out)
            print FILENAME ":" FNR ":" out
        }'
}

# rule TEXT PATTERN ALLOWED PATH...: no line of code in PATH... matches PATTERN, but for files whose
# path matches ALLOWED. Both are extended regular expressions, matched from the line's start and
# from the path's.
rule()
{
    text=$1
    pattern=$2
    allowed=$3
    shift 3
    found=$(sources "$@" | grep -vE "^($allowed)" | code | grep -E "^[^:]*:[^:]*:$pattern" || true)
    if [ -n "$found" ]; then
        printf '%s\n%s\n' "$text:" "$found"
        failures=$((failures + 1))
    fi
}

# include NAMES: the pattern of a line that includes one of them.
include()
{
    echo "[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]([A-Za-z0-9_./-]*/)?($1)[>\"]"
}

# call NAMES: the pattern of a line that calls one of these functions.
call()
{
    echo "(.*[^A-Za-z0-9_])?($1)[[:space:]]*\\("
}

nobody='$.'
all='include src mpi cuda tests bench'
program='include src mpi cuda'

# shellcheck disable=SC2086 # lists of folders
{
    rule 'mpi.h is for mpi/, its tests and benchmarks' \
        "$(include 'mpi\.h')" 'mpi/|tests/(cuda/|test_)?mpi_|bench/' $all
    rule 'CUDA and NCCL are for cuda/' \
        "$(include '(cuda|cublas|cudnn|nccl|nvml|nvtx)[A-Za-z0-9_]*\.h')" 'cuda/|tests/(cuda|fake_cuda|simt)/' $all
    rule 'HDF5 is for checkpoints, exports and data sets' \
        "$(include 'hdf5(_hl)?\.h|H5[A-Za-z]*\.h')" \
        'src/checkpoint/hdf5|src/export|src/data/dataset_hdf5' $program
    rule 'zlib is for IDX data sets' "$(include 'zlib\.h')" 'src/data/dataset_idx\.c' $program
    rule 'only mpi/world.c ends all processes' \
        "$(call MPI_Abort)" 'mpi/(world\.c|one_rank/mpi\.[ch])' $program
    rule 'only src/main.c and mpi/world.c end the process' \
        "$(call 'exit|_exit|_Exit|quick_exit')" 'src/main\.c|mpi/world\.c' src mpi
    rule 'models, kernels, data and checkpoints know no ranks' \
        "$(include '(world|gradsync|comm)\.h')" \
        "$nobody" src/cpu src/data src/model* src/optimizer* src/checkpoint
    rule 'communication knows no models and no data' \
        "$(include '(model|replica|kernel|dataset|loader|optimizer)\.h')" "$nobody" mpi

    # One file alone knows which oneDNN there is.
    onednn=$(sources $all | xargs -r grep -lE "^$(include 'dnnl[A-Za-z_]*\.h')" || true)
}
if [ "$(echo "$onednn" | grep -c .)" -ne 1 ]; then
    printf 'dnnl.h is for exactly one file:\n%s\n' "${onednn:-(none)}"
    failures=$((failures + 1))
fi

[ $failures -eq 0 ]
