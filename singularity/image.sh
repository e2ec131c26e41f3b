#!/bin/sh
# image.sh: how dtrain's container images are made; what the definition files and the Dockerfile
# have in common. Works on Debian and Ubuntu, as root.
#
#   sh singularity/image.sh build MPI [MESON OPTION]...   MPI: openmpi or mpich
#   sh /usr/local/share/dtrain/image.sh install
#   sh /usr/local/share/dtrain/image.sh test
#
# build runs in the first stage, which is thrown away: it compiles dtrain and puts what belongs into
# the image below /image. install runs in the second stage, where these files are at their places:
# it gets the packages that dtrain needs to run, and no compiler. test trains a little, on one rank
# and on two.
set -eu

share=usr/local/share/dtrain

# The packages with the shared libraries that PROGRAM names. Others have them as dependencies.
packages_of() # PROGRAM
{
    readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | while read -r library; do
        dpkg -S "*/$library"
    done | cut -d: -f1 | sort -u
}

build_image()
{
    mpi=$1
    shift
    case $mpi in
    openmpi) items=mpi mpi_package=ompi-c launcher=openmpi-bin ;;
    mpich) items='mpich patchelf' mpi_package=mpich launcher=mpich ;;
    *)
        echo "image.sh: MPI is openmpi or mpich, not '$mpi'" >&2
        exit 2
        ;;
    esac
    case " $* " in
    *' -Dgpu=enabled '*) items="$items c++" ;; # nvcc compiles with it
    esac
    root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
    # shellcheck source=jobs/lib/common.sh
    . "$root/jobs/lib/common.sh"
    # shellcheck source=jobs/lib/packages.sh
    . "$root/jobs/lib/packages.sh"

    mkdir -p "$root/build" /image/$share
    # shellcheck disable=SC2046 # a list
    packages_ensure 'to build dtrain' "$root/build/packages.log" \
        $(echo " $PACKAGES_BUILD " | sed "s/ mpi / $items /") || {
        tail -n 20 "$root/build/packages.log" >&2
        exit 69
    }
    if ! build image all --buildtype=release --prefix=/usr/local -Dtests=disabled \
        "-Dmpi_package=$mpi_package" "$@"; then
        tail -n 60 "$root/build/image.log" >&2
        die 1 "building dtrain failed"
    fi
    DESTDIR=/image meson install -C "$root/build/image" --no-rebuild --strip
    cp "$root/singularity/image.sh" "$root/LICENSE" /image/$share
    program=/image/usr/local/bin/dtrain
    { echo "$launcher" && packages_of $program; } >/image/$share/packages
    [ "$mpi" != mpich ] || patchelf --replace-needed libmpich.so.12 libmpi.so.12 $program
    plugin=$(find /image -name libdtrain_cuda.so)
    [ -z "$plugin" ] || copy_cuda_libraries "$plugin"
}

# The plugin looks for these in its own folder first, so the second stage needs no CUDA.
copy_cuda_libraries() # PLUGIN
{
    ldd "$1" | awk '$1 ~ /^lib(cublas|cublasLt|nccl)\.so/ { print $3 }' |
        xargs cp -L --target-directory="$(dirname "$1")"
}

# MPICH and its kin (Cray, Intel, MVAPICH) agree on the name libmpi.so.12, so that a site can put
# its own library in the place of the image's. Debian's name for it is another one.
name_mpich()
{
    library=$(dpkg -L libmpich12 2>/dev/null | grep '/libmpich\.so\.12$') || return 0
    ln -sf libmpich.so.12 "${library%/*}/libmpi.so.12"
}

install_image()
{
    apt-get update
    # shellcheck disable=SC2046 # a list
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        $(cat /$share/packages)
    name_mpich
    apt-get clean
    rm -rf /var/lib/apt/lists/*
}

# As root because containers are; more ranks than cores because a machine may have one.
test_image()
{
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=slot:oversubscribe
    training='--data synthetic:2000 --validation-size 200 --steps 20 --checkpoint-dir none'
    # shellcheck disable=SC2086 # a list
    one=$(dtrain $training | grep '^Weights: ') &&
        two=$(mpirun -n 2 --bind-to none dtrain $training | grep '^Weights: ') || exit
    echo "$(dtrain --version): 1 rank: $one, 2 ranks: $two"
    [ "$one" = "$two" ]
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
build) build_image "$@" ;;
install) install_image ;;
test) test_image ;;
*)
    echo "image.sh: build MPI, install or test" >&2
    exit 2
    ;;
esac
