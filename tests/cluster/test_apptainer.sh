#!/bin/bash
# test_apptainer.sh DTRAIN: makes the images of singularity/ and trains in them, alone and with the
# host's MPI; they give the weights that DTRAIN, the host's own, gives.
#
# Apptainer is Debian sid's, in a system of its own; the Dockerfile is built by buildah. The images'
# base is made by mmdebstrap, so no registry is asked. As root; takes a quarter of an hour, 4 GB in
# $TMPDIR, and Debian's mirror.
set -eu
dtrain=$1
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=.ci/debian.sh
. "$root/.ci/debian.sh"

tell()
{
    echo "$* (after $SECONDS s)"
}

# run COMMAND...: in $work; output, errors and status as those of a job
run()
{
    last="$*"
    status=0
    (cd "$work" && "$@") </dev/null >"$out" 2>"$err" || status=$?
}

# That a mirror is behind does not matter here.
debian_make sid "$work/sid" --include=apptainer,ca-certificates,mount,tzdata \
    '--aptopt=Acquire::Check-Valid-Until "false"' 2>"$err"
debian_make bookworm "$work/base" 2>"$err"
rm -rf "$work"/base/dev/* # as in the public base images
cp /etc/hosts "$work/sid/etc/hosts"

# apptainer ARGUMENT...: sees this test's folder and the checkout, at their places. A chroot it would
# refuse. The capability that it drops is one that containers seldom have, and it cannot do without
# unless it is told.
mkdir -p "$work/bin" "$work/sid$work" "$work/sid$root" "$work/sid/old"
cat >"$work/bin/apptainer" <<EOT
#!/bin/bash
here=\$PWD
cd "$work/sid"
APPTAINER_DROP_CAPS=CAP_SYS_RESOURCE APPTAINER_CACHEDIR=$work/cache TMPDIR=$work \\
    exec unshare --mount --propagation private bash -euc '
    mount --bind . .
    cd "\$PWD"
    for folder in /proc /sys /dev "$work" "$root"; do
        mount --rbind "\$folder" ".\$folder"
    done
    pivot_root . old
    cd /
    umount -l old
    cd "\$1"
    shift
    exec /usr/bin/apptainer "\$@"
' apptainer "\$here" "\$@"
EOT
chmod +x "$work/bin/apptainer"
PATH=$work/bin:$PATH
run apptainer --version
check 'there is an Apptainer' [ "$status" -eq 0 ]
tell "$(cat "$out")"

training=(--data synthetic:2000 --validation-size 200 --steps 40 --checkpoint-dir none)
job 1 "${training[@]}"
expected=$(grep '^Weights: ' "$out")

trains() # RANKS MPI
{
    check 'status 0' [ "$status" -eq 0 ]
    check "on $1 ranks, with $2" grep -q "^dtrain .* on $1 rank.*$2" "$out"
    check "$expected" grep -qx "$expected" "$out"
}

# The definition copies from the current folder. First into a folder, because Apptainer cannot unpack
# an image to derive another one where it lacks that capability.
build_dtrain() # NAME MPI LIBRARY
{
    run sh -c 'cd "$1" && shift && exec "$@"' sh "$root" apptainer build --sandbox \
        --build-arg "MPI=$2" --build-arg BOOTSTRAP=localimage --build-arg "FROM=$work/base" \
        "$work/$1" singularity/dtrain-cpu.def
    check "builds $1" [ "$status" -eq 0 ]
    check '%test trains' grep -q 'Weights: ' "$out"
    run apptainer build "$1.sif" "$1"
    tell "$1.sif: $(du -m "$work/$1.sif" | cut -f 1) MB"
    run apptainer exec "$1.sif" sh -c 'command -v cc gcc meson'
    check 'has no compiler' [ ! -s "$out" ]
    run apptainer exec "$1.sif" dtrain "${training[@]}"
    trains 1 "$3"
}

build_dtrain dtrain openmpi 'Open MPI'
run apptainer test dtrain.sif
check 'apptainer test' grep -q 'Weights: ' "$out"
run apptainer run dtrain.sif --version
check 'the runscript is dtrain' grep -q '^dtrain [0-9]' "$out"
run apptainer exec dtrain.sif mpirun -n 2 --bind-to none dtrain "${training[@]}"
trains 2 'Open MPI'
run mpirun -n 2 --bind-to none apptainer exec dtrain.sif dtrain "${training[@]}"
trains 2 'Open MPI'
check 'ranks share memory' grep -q '2 ranks share memory' "$out"
# As where Apptainer is not setuid: a user namespace for each rank, or one for all.
run mpirun -n 2 --bind-to none apptainer exec --userns dtrain dtrain "${training[@]}"
trains 2 'Open MPI'
check 'ranks exchange messages' grep -q 'no memory to share.*messages' "$out"
check 'which is fine with Open MPI' [ ! -s "$err" ]
run mpirun -n 2 --bind-to none apptainer exec --userns --sharens dtrain dtrain "${training[@]}"
trains 2 'Open MPI'
check 'ranks share memory' grep -q '2 ranks share memory' "$out"

run mpiexec.mpich -n 2 apptainer exec dtrain.sif dtrain "${training[@]}"
check "another MPI's launcher is refused" [ "$status" -eq 69 ]
check 'and named' grep -q 'mpiexec (PMI) started 2 processes.*Open MPI.*rank 0 of 1' "$err"

# The job script, on a Slurm of two nodes: srun starts the containers. Where a site would load a module,
# this Apptainer is put into PATH. The containers do not see Slurm's spool folder, where PMIx has files.
if [[ -n ${DTRAIN_DATA:-} ]]; then
    mkdir "$work/data"
    cp -r "$DTRAIN_DATA" "$work/data/mnist"
    sed "s|^# module load apptainer|PATH='$work/bin':\$PATH|" "$root/jobs/apptainer.sbatch" \
        >"$work/apptainer.sbatch"
    run bash "$root/tests/cluster/slurm.sh" start 2
    check 'there is a Slurm' [ "$status" -eq 0 ]
    trap 'bash "$root/tests/cluster/slurm.sh" stop; rm -rf --one-file-system "$work"' EXIT
    training=(--steps 20 --eval-every 10)
    job 1 "${training[@]}" --checkpoint-dir none
    expected=$(grep '^Weights: ' "$out")
    for nodes in 1 2; do
        data=()
        [[ $nodes -eq 1 ]] || data=(--data "$work/data/mnist")
        run timeout 300 bash "$root/tests/cluster/slurm.sh" run sbatch --wait --nodes="$nodes" \
            --ntasks-per-node=$((3 - nodes)) --cpus-per-task=1 --output=apptainer.out \
            apptainer.sbatch "${training[@]}" "${data[@]}"
        last="apptainer.sbatch on $nodes nodes"
        cp "$work/apptainer.out" "$out"
        trains 2 'Open MPI'
        check "on $nodes hosts" grep -q "^dtrain .*, $nodes hosts\? (rank 0 on h1)" "$out"
    done
    check 'checkpoints are outside' [ -f "$work/runs/2/ckpt-s000000020.h5" ]
    bash "$root/tests/cluster/slurm.sh" stop
    training=(--data synthetic:2000 --validation-size 200 --steps 40 --checkpoint-dir none)
    job 1 "${training[@]}"
    expected=$(grep '^Weights: ' "$out")
fi

run apptainer build --build-arg FROM=dtrain mine.sif "$root/singularity/derived.def"
check 'builds mine.sif' [ "$status" -eq 0 ]
run apptainer run mine.sif "${training[@]}"
check 'a derived image trains its own network' grep -q '^Model: /opt/networks/lenet.txt, 61706 ' "$out"

# MPICH, also a library of the site's in the place of the image's.
build_dtrain mpich mpich MPICH
run mpiexec.mpich -n 2 --bind-to none apptainer exec mpich.sif dtrain "${training[@]}"
trains 2 MPICH
mkdir "$work/site"
run apptainer exec mpich.sif sh -c 'cp /usr/lib/*/libmpi.so.12 site/'
# shellcheck disable=SC2016 # for the inner shell
run env APPTAINERENV_LD_LIBRARY_PATH="$work/site" mpiexec.mpich -n 2 --bind-to none \
    apptainer exec --bind "$work/site" mpich.sif sh -c \
    'ldd "$(command -v dtrain)" | grep "libmpi.so.12 => .*/site/" >&2 && exec dtrain "$@"' \
    sh "${training[@]}"
trains 2 MPICH
check "with the site's library" grep -q 'libmpi.so.12' "$err"

# The Dockerfile, without an engine, on a base that has the public one's name.
export BUILDAH_ISOLATION=chroot
image()
{
    buildah --storage-driver vfs --root "$work/storage" --runroot "$work/storage-run" "$@"
}
mkdir "$work/scratch"
tar -C "$work/base" -cf "$work/scratch/base.tar" .
printf 'FROM scratch\nADD base.tar /\n' >"$work/scratch/Dockerfile"
run image build --tag docker.io/library/debian:12 scratch
check 'makes a base' [ "$status" -eq 0 ]
run image build --pull=never --file "$root/singularity/Dockerfile" --tag dtrain "$root"
check 'builds the Dockerfile' [ "$status" -eq 0 ]
tell "Docker image: $(image images --format '{{.Size}}' localhost/dtrain)"
container=$(image from --pull=never localhost/dtrain)
run image run "$container" -- dtrain "${training[@]}"
trains 1 'Open MPI'
run image run "$container" -- mpirun -n 2 --bind-to none dtrain "${training[@]}"
trains 2 'Open MPI'
run image push localhost/dtrain docker-archive:dtrain.tar
run apptainer build docker.sif docker-archive:dtrain.tar
check 'Apptainer takes it' [ "$status" -eq 0 ]
run apptainer exec docker.sif dtrain "${training[@]}"
trains 1 'Open MPI'
finish
