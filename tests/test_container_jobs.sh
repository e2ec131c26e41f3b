#!/bin/sh
# test_container_jobs.sh: what apptainer.sbatch and shifter.sbatch would start, by a srun that only
# tells. (tests/cluster/test_apptainer.sh runs apptainer.sbatch in earnest.)
set -eu
dtrain=/bin/true # nothing runs it
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"
jobs=$(CDPATH='' cd -- "$(dirname "$0")/../jobs" && pwd)

mkdir -p "$work/bin" "$work/data/mnist" "$work/elsewhere"
printf '#!/bin/sh\necho "$*"\n' >"$work/bin/srun"
chmod +x "$work/bin/srun"
touch "$work/dtrain.sif"

# batch VARIABLE=VALUE... -- SCRIPT [OPTION]...: the script as Slurm would start it, on 2 nodes
batch()
{
    last="$*"
    status=0
    variables=
    while [ "$1" != -- ]; do
        variables="$variables $1"
        shift
    done
    script=$2
    shift 2
    # shellcheck disable=SC2086 # a list
    (cd "$work" && env -u DTRAIN_DATA -u SLURM_MPI_TYPE -u NERSC_HOST PATH="$work/bin:$PATH" USER=me \
        SLURM_JOB_ID=17 SLURM_JOB_NUM_NODES=2 SLURM_NTASKS=8 SLURM_CPUS_PER_TASK=4 $variables \
        bash "$jobs/$script" "$@") >"$out" 2>"$err" || status=$?
}

starts() # COMMAND
{
    check 'status 0' [ "$status" -eq 0 ]
    check "starts: $1" [ "$(cat "$out")" = "$1" ]
}

srun='--export=ALL -K1 --mpi=pmix -N 2 -n 8 -c 4'
data="--bind $work --bind $work/data/mnist:/data:ro"
batch -- apptainer.sbatch
starts "$srun apptainer exec $data dtrain.sif dtrain --data /data --epochs 1"
batch -- apptainer.sbatch --steps 7
starts "$srun apptainer exec $data dtrain.sif dtrain --data /data --steps 7"
for named in "--data $work/elsewhere" '--data=elsewhere'; do
    # shellcheck disable=SC2086 # two words
    batch -- apptainer.sbatch --steps 7 $named --seed 2
    starts "$srun apptainer exec --bind $work --bind $work/elsewhere:/data:ro dtrain.sif dtrain \
--data /data --steps 7 --seed 2"
done
batch -- apptainer.sbatch --data synthetic
starts "$srun apptainer exec --bind $work dtrain.sif dtrain --data synthetic --epochs 1"
batch -- apptainer.sbatch --data nowhere
check 'no data, no job' [ "$status" -eq 1 ]
check 'which is said' grep -q "^no nowhere in $work; see" "$err"
touch "$work/mine.sif"
batch SLURM_MPI_TYPE=pmi2 SLURM_GPUS_ON_NODE=4 DTRAIN_IMAGE=mine.sif DTRAIN_DATA=elsewhere -- \
    apptainer.sbatch
starts "--export=ALL -K1 --mpi=pmi2 -N 2 -n 8 -c 4 apptainer exec --bind $work \
--bind $work/elsewhere:/data:ro --nv mine.sif dtrain --data /data --backend cuda --epochs 1"
batch DTRAIN_IMAGE=none.sif -- apptainer.sbatch
check 'no image, no job' [ "$status" -eq 1 ]
check 'which is said' grep -q "^no none.sif in $work" "$err"

srun='--export=ALL -K1 -N 2 -n 8 -c 4'
train="dtrain --data /data --checkpoint-dir $work/runs/17"
batch -- shifter.sbatch
starts "$srun shifter run --mpi --mount=type=bind,source=$work/data/mnist,destination=/data \
--mount=type=bind,source=$work,destination=$work me/dtrain:mpich $train --epochs 1"
batch NERSC_HOST=perlmutter SLURM_GPUS_ON_NODE=4 DTRAIN_IMAGE=you/dtrain:cuda -- shifter.sbatch --steps 7
starts "$srun shifter --image=docker:you/dtrain:cuda --volume=$work/data/mnist:/data \
--module=gpu,mpich $train --backend cuda --steps 7"
cp "$work/bin/srun" "$work/bin/sarus"
batch -- shifter.sbatch --data elsewhere
starts "$srun sarus run --mpi --mount=type=bind,source=$work/elsewhere,destination=/data \
--mount=type=bind,source=$work,destination=$work me/dtrain:mpich $train --epochs 1"
rmdir "$work/data/mnist"
batch -- shifter.sbatch
check 'no data, no job' [ "$status" -eq 1 ]
check 'which is said' grep -q "^no data/mnist in $work; see" "$err"
finish
