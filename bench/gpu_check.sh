#!/bin/sh
# gpu_check.sh: what there is to find out on a machine with a GPU, in one command of 8 minutes: are
# the kernels right, is a training right and repeatable, how fast is it, also beside PyTorch.
#
#   bench/gpu_check.sh prepare          on a machine with compilers and CUDA: makes build/gpu_check/
#                                       with all that the other may lack but glibc and CUDA
#   bench/gpu_check.sh [OPTION VALUE]   on the machine with the GPU, in a copy of the checkout with
#                                       build/gpu_check/; else that is prepared there first
#
#   --out DIR       where results go; $OUT, else build/gpu_check_results
#   --limit S       seconds for everything; 470
#   --rehearse      no value: everything small, on the emulated GPU that $DTRAIN_PLUGIN names
#                   (build/test/tests/cuda/libdtrain_emulated.so), to try this script
#
# The Python with PyTorch is $DTRAIN_TORCH_PYTHON, else python3. Timings use MNIST if $DTRAIN_DATA
# names it. Results: gpu_check.json in DIR, a table on standard output, what each command printed
# in DIR/log. Status: 0, 1 if a step failed, 69 where there is no GPU. The steps are in
# bench/gpu_check/.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=jobs/lib/common.sh
. "$root/jobs/lib/common.sh"
folder=$root/build/gpu_check

# What a program or library needs, but for what every system has, and CUDA.
needed() # FILE...
{
    for file in "$@"; do
        ldd "$file" 2>/dev/null || true
    done | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u | while read -r library; do
        case ${library##*/} in
        libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | libresolv.so.*) ;;
        libcuda.so.* | libcublas*.so.* | libnccl.so.*) ;;
        *) echo "$library" ;;
        esac
    done
}

# Copies what these files need to a folder, unless it is in lib/ already. The compiler's own
# libraries go apart: if the system has some, they are newer, or as good.
bundle() # FOLDER FILE...
{
    bundle_folder=$1
    shift
    needed "$@" | while read -r library; do
        name=${library##*/}
        case $name in
        libstdc++.so.* | libgcc_s.so.* | libgomp.so.*) cp -L "$library" "$folder/lib/gcc/" ;;
        *) [ -e "$folder/lib/$name" ] || cp -L "$library" "$bundle_folder/" ;;
        esac
    done
}

# Open MPI, for ranks of one host: mpirun and the components that this takes.
bundle_mpi()
{
    mpirun=$(command -v mpirun.openmpi || command -v mpirun) || return 0
    plugins=$(ompi_info --path pkglibdir --parsable 2>/dev/null | sed -n 's/^path:pkglibdir://p')
    texts=$(ompi_info --path pkgdatadir --parsable 2>/dev/null | sed -n 's/^path:pkgdatadir://p')
    if [ ! -d "$plugins" ]; then
        say "this MPI is not Open MPI, or keeps its components elsewhere: two ranks are left out"
        return 0
    fi
    for part in bin components pmix lib; do
        mkdir -p "$folder/openmpi/$part"
    done
    cp -L "$mpirun" "$folder/openmpi/bin/mpirun"
    [ ! -d "$texts" ] || cp -rL "$texts" "$folder/openmpi/share"
    for component in "$plugins"/mca_*.so; do
        case ${component##*/mca_} in
        *ucx* | *ofi* | *psm* | *openib* | *portals* | *ugni* | *slurm* | *flux* | *jsm*) ;;
        io_* | fs_* | fbtl_* | fcoll_* | sharedfp_* | spml_* | scoll_* | sshmem_* | memheap_*) ;;
        compress_* | ras_grid* | osc_* | *monitoring* | vprotocol_* | atomic_*) ;;
        *) cp -L "$component" "$folder/openmpi/components/" ;;
        esac
    done
    pmix=$(find /usr/lib /usr/lib64 -type d -path '*pmix*/lib/pmix' 2>/dev/null | head -n 1)
    [ -z "$pmix" ] || cp -L "$pmix"/*.so "$folder/openmpi/pmix/"
    bundle "$folder/openmpi/lib" "$folder"/mpi/dtrain "$folder"/openmpi/bin/mpirun \
        "$folder"/openmpi/components/*.so "$folder"/openmpi/pmix/*.so
}

# The newest version of glibc that any file in these folders asks for.
glibc() # FOLDER...
{
    find "$@" -type f \( -name '*.so*' -o -perm -u+x \) -not -path '*/gcc/*' -exec objdump -T {} + \
        2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1
}

prepare()
{
    # shellcheck source=jobs/lib/packages.sh
    . "$root/jobs/lib/packages.sh"
    mkdir -p "$root/build" || die 74 "cannot write to $root"
    # shellcheck disable=SC2086 # a list
    packages_ensure 'to prepare the check' "$root/build/packages.log" $PACKAGES_BUILD check || exit
    say 'building (log: build/gpu.log)'
    build gpu gpu_check --buildtype=release -Dgpu=enabled -Dtests=enabled ||
        die 1 "the build failed: $(tail -n 3 "$root/build/gpu.log")"
    made=$root/build/gpu
    rm -rf "$folder"
    mkdir -p "$folder/alone" "$folder/mpi" "$folder/tests" "$folder/lib/gcc"
    cp "$made/tests/dtrain_alone" "$folder/alone/dtrain"
    cp "$made/cuda/libdtrain_cuda.so" "$folder/alone/"
    cp "$made"/tests/cuda/test_gpu_kernels "$made"/tests/cuda/test_gpu_conv \
        "$made"/tests/cuda/test_gpu_replica "$folder/tests/"
    bundle "$folder/lib" "$folder"/alone/* "$folder"/tests/*
    if "$made/dtrain" --version | grep -qv 'no MPI'; then
        cp "$made/dtrain" "$folder/mpi/"
        bundle_mpi
    fi
    find "$folder" -type f -perm -u+x -exec strip -g {} +
    {
        "$folder/alone/dtrain" --version
        commit=$(git -C "$root" describe --always --dirty 2>/dev/null) || commit='a copy without git'
        echo "made $(date -u +%Y-%m-%dT%H:%MZ) of $commit"
        echo "needs $(glibc "$folder/alone" "$folder/tests" "$folder/lib") or newer"
        [ ! -d "$folder/openmpi" ] || echo "two ranks need $(glibc "$folder/openmpi") or newer"
    } >"$folder/made"
    size=$(tar -C "$folder" -c . | gzip -1 | wc -c)
    cat "$folder/made"
    echo "build/gpu_check: $((size / 1048576)) MB compressed"
}

case ${1:-} in
-h | --help)
    sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$0"
    exit 0
    ;;
prepare)
    [ $# -eq 1 ] || die 2 'prepare takes no options'
    prepare
    exit 0
    ;;
esac
command -v python3 >/dev/null 2>&1 || die 69 'python3 is needed to run the check'
if [ ! -x "$folder/alone/dtrain" ]; then
    for tool in meson ninja cc nvcc; do
        command -v $tool >/dev/null 2>&1 || [ -x /usr/local/cuda/bin/$tool ] || die 69 \
            "nothing is prepared, and there is no $tool: run bench/gpu_check.sh prepare on a machine" \
            'that has it, and bring build/gpu_check along'
    done
    prepare
fi
exec python3 "$root/bench/gpu_check/run.py" "$@"
