#!/usr/bin/env bash
# One part of a cohort a task; a task that was ended goes on where it was. From a folder that all nodes share:
#   job=$(sbatch --parsable --array=0-15 docker/slurm_array.sh score /data/cohort /data/scores --model /data/trained/model)
#   sbatch --array=5,7,11 docker/slurm_array.sh score /data/cohort /data/scores --model /data/trained/model --num-parts 16  # again
#   sbatch --dependency=afterany:"$job" --wrap 'medrep merge /data/scores'
# Images of a training are read in parts, too; of how many has to be said:
#   sbatch --array=0-99 docker/slurm_array.sh train /data/cohort /data/trained --num-parts 100 --config linear.yaml
#SBATCH --job-name=medrep
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output=medrep-%A_%a.log
set -euo pipefail

if [ "$#" -lt 4 ]; then
  echo "usage: sbatch --array=0-N docker/slurm_array.sh score|export|counterfactual COHORT OUT --model M ..." >&2
  echo "       sbatch --array=SOME docker/slurm_array.sh ... --num-parts N     (task ids are part ids, from 0 to N-1)" >&2
  echo "       sbatch --array=0-M docker/slurm_array.sh train COHORT OUT --num-parts N ...                      (M = N-1)" >&2
  exit 2
fi

# SLURM sends TERM to this shell: it has to reach medrep, which then writes what it has.
medrep "$@" --workers "${SLURM_CPUS_PER_TASK:-1}" &
trap 'kill -TERM "$!"' TERM
code=0
wait "$!" || code=$?
while kill -0 "$!" 2>/dev/null; do wait "$!" || code=$?; done

# Some people failed and are listed: to repeat the task would change nothing.
if [ "$code" -eq 3 ]; then code=0; fi
exit "$code"
