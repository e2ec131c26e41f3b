# packages.sh: finds out what is missing to build dtrain, and gets it. Sourced by other scripts:
#
#   . jobs/lib/packages.sh
#   packages_ensure WHY LOG ITEM...    ITEM: a word of the first column below
#   packages_check WHY ITEM...         the same, but only says what is missing
#
# On Debian 12 or newer and Ubuntu 24.04 or newer it installs the packages with apt, as root or
# with sudo, and only if something is missing. Elsewhere it lists what is missing with the names
# that other systems use. Returns 0 when everything is there, else 69.
# shellcheck shell=sh

PACKAGES_MESON_VERSION=1.0.1
# What dtrain needs to be built and run.
# shellcheck disable=SC2034 # for those who source this file
PACKAGES_BUILD='cc meson ninja pkg-config mpi onednn hdf5 zlib xxhash'

# item | Debian, Ubuntu | Fedora, RHEL | Spack
packages_table()
{
    cat <<'TABLE'
cc|gcc libc6-dev|gcc|gcc
meson|meson|meson|meson
ninja|ninja-build|ninja-build|ninja
pkg-config|pkg-config|pkgconf-pkg-config|pkgconf
mpi|libopenmpi-dev openmpi-bin|openmpi-devel|openmpi
mpich|libmpich-dev mpich|mpich-devel|mpich
onednn|libdnnl-dev|onednn-devel|onednn
hdf5|libhdf5-dev|hdf5-devel|hdf5
zlib|zlib1g-dev|zlib-devel|zlib
xxhash|libxxhash-dev|xxhash-devel|xxhash
check|check|check-devel|check
clang|clang|clang|llvm
libomp|libomp-dev|libomp-devel|llvm-openmp
clang-format|clang-format|clang-tools-extra|llvm
shellcheck|shellcheck|ShellCheck|-
h5py|python3-h5py|python3-h5py|py-h5py
venv|python3-venv|python3|python
python-headers|python3-dev|python3-devel|python
c++|g++|gcc-c++|gcc
torch|python3-torch python3-numpy|python3-torch python3-numpy|py-torch py-numpy
h5dump|hdf5-tools|hdf5|hdf5
ip|iproute2|iproute|-
slurm|slurmctld slurmd slurm-client munge|slurm slurm-slurmctld slurm-slurmd munge|slurm munge
mmdebstrap|mmdebstrap|-|-
patchelf|patchelf|patchelf|patchelf
buildah|buildah|buildah|-
TABLE
}

# packages_names COLUMN ITEM...: the items' names in a column of the table, on one line.
packages_names()
(
    column=$1
    shift
    packages_table | awk -F'|' -v column="$column" -v items="$*" '
        BEGIN { split(items, list, " "); for (i in list) wanted[list[i]] = 1 }
        ($1 in wanted) && $column != "-" { line = line (line == "" ? "" : " ") $column }
        END { print line }'
)

packages_has_command()
{
    command -v "$1" >/dev/null 2>&1
}

packages_has_library()
{
    pkg-config --exists "$1" 2>/dev/null
}

# CC may hold options too ("gcc -m64"), so it is split on purpose.
packages_has_header()
{
    # shellcheck disable=SC2086
    echo "#include <$1>" | ${CC:-cc} -x c -fsyntax-only - >/dev/null 2>&1
}

# Where a module's variables say it is; meson.build looks there, too.
packages_has_onednn()
{
    for folder in "${DNNLROOT:-}" "${EBROOTONEDNN:-}" $(echo "${CMAKE_PREFIX_PATH:-}" | tr : ' '); do
        [ ! -e "$folder/include/dnnl.h" ] || return 0
    done
    return 1
}

packages_has_meson()
(
    have=$(meson --version 2>/dev/null) || return 1
    oldest=$(printf '%s\n%s\n' "$have" "$PACKAGES_MESON_VERSION" | sort -V | head -n 1)
    [ "$oldest" = "$PACKAGES_MESON_VERSION" ]
)

# A library may come from a package, a module or a compiler wrapper, so more than one sign of it
# counts.
packages_has()
{
    case $1 in
    cc) packages_has_header stdio.h ;;
    meson) packages_has_meson ;;
    ninja) packages_has_command ninja || packages_has_command ninja-build ;;
    mpi)
        { packages_has_command mpirun || packages_has_command srun; } &&
            { packages_has_command mpicc || packages_has_header mpi.h; }
        ;;
    mpich) packages_has_library mpich ;;
    onednn) packages_has_header dnnl.h || packages_has_onednn ;;
    hdf5)
        packages_has_library hdf5 || packages_has_library hdf5-serial ||
            packages_has_command h5cc || packages_has_header hdf5.h
        ;;
    zlib) packages_has_library zlib || packages_has_header zlib.h ;;
    xxhash) packages_has_library libxxhash || packages_has_header xxhash.h ;;
    check) packages_has_library check || packages_has_header check.h ;;
    libomp) CC='clang -fopenmp' packages_has_header omp.h ;;
    h5py) /usr/bin/python3 -c 'import h5py' 2>/dev/null ;;
    torch) /usr/bin/python3 -c 'import numpy, torch' 2>/dev/null ;;
    slurm)
        packages_has_command srun && packages_has_command munged &&
            packages_has_command slurmctld && packages_has_command slurmd
        ;;
    venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    python-headers)
        python3 -c "from sysconfig import get_path; open(get_path('include') + '/Python.h')" \
            2>/dev/null
        ;;
    *) packages_has_command "$1" ;;
    esac
}

# Prints the items that are missing, on one line.
packages_missing()
(
    missing=
    for item in "$@"; do
        packages_has "$item" || missing="$missing${missing:+ }$item"
    done
    echo "$missing"
)

# True on the systems whose apt has everything, in versions that are new enough.
packages_apt_knows()
(
    packages_has_command apt-get && [ -r /etc/os-release ] || return 1
    # shellcheck source=/dev/null
    . /etc/os-release
    case ${ID:-} in
    debian) oldest=12 ;;
    ubuntu) oldest=24.04 ;;
    *) return 1 ;;
    esac
    # Debian's testing and unstable have no number.
    have=${VERSION_ID:-$oldest}
    [ "$(printf '%s\n%s\n' "$have" "$oldest" | sort -V | head -n 1)" = "$oldest" ]
)

# How to become root: nothing to do, sudo, or (without a terminal to ask on) sudo that never asks.
packages_as_root()
{
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

# A failed update may be the fault of a source that has nothing to do with us: the installation
# decides. Another apt at work, as just after a machine's first start, is waited for.
packages_apt_install()
(
    log=$1
    shift
    packages_as_root apt-get -q update >>"$log" 2>&1 || true
    packages_as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@" >>"$log" 2>&1 </dev/null
)

# Says what to install by hand.
packages_explain()
(
    why=$1
    shift
    cat >&2 <<TEXT
dtrain: missing $why: $*. Please install, then run this again:
    Debian, Ubuntu   apt-get install $(packages_names 2 "$@")
    Fedora, RHEL     dnf install $(packages_names 3 "$@")
    Spack            spack install $(packages_names 4 "$@"), then spack load them
    a cluster        module avail, then module load what is called like: $(packages_names 4 "$@")
TEXT
    case " $* " in
    *" meson "*)
        echo "    without root     pip install --user 'meson>=$PACKAGES_MESON_VERSION' ninja" >&2
        ;;
    esac
    case " $* " in
    *" onednn "*) echo "    without root     oneDNN from its source: README.md, 'Without root'" >&2 ;;
    esac
)

# packages_check WHY ITEM...: says what is missing, without installing it; 69 if there is something.
packages_check()
(
    why=$1
    shift
    missing=$(packages_missing "$@")
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086 # a list
    packages_explain "$why" $missing
    return 69
)

packages_ensure()
(
    why=$1
    log=$2
    shift 2
    missing=$(packages_missing "$@")
    [ -n "$missing" ] || return 0

    # From here on $missing and $names are split into words on purpose.
    # shellcheck disable=SC2086
    {
        names=$(packages_names 2 $missing)
        if ! packages_apt_knows; then
            packages_explain "$why" $missing
            return 69
        fi
        echo "dtrain: installing $names with apt, $why (log: $log)" >&2
        if ! packages_as_root true 2>/dev/null; then
            echo "dtrain: that takes root, and sudo is not there or refuses" >&2
            packages_explain "$why" $missing
            return 69
        fi
        if ! packages_apt_install "$log" $names; then
            echo "dtrain: apt could not install them; the reason is at the end of $log" >&2
            return 69
        fi
        missing=$(packages_missing $missing)
        [ -n "$missing" ] || return 0
        echo "dtrain: installed, but still missing $why: $missing;" \
            "is an older one first in PATH, or does CC name no compiler?" >&2
        return 69
    }
)
