#!/usr/bin/env bash
# Run a small variant of the offline study through Slurm: a private one-node cluster with two pretend GPUs on 127.0.0.1.
#
#     tests/slurm/run_tiny_study.sh [FOLDER]      # default: a new temporary folder
#
# Needs Debian's or Ubuntu's munge, slurmctld, slurmd and slurm-client (their services may be off), and two environments:
#   HEAD (.venv-slurm): python3 -m venv .venv-slurm && .venv-slurm/bin/pip install -r envs/slurm.txt
#   JOBS (.venv):       the study's own, with snakemake-executor-plugin-slurm-jobstep
# It touches no other Slurm or munge: key, sockets, ports and state are its own, and it stops the daemons it started.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
head=${HEAD:-$root/.venv-slurm} jobs=${JOBS:-$root/.venv}
folder=$(mkdir -p "${1:-$(mktemp -d)}" && cd "${1:-$_}" && pwd)

for program in munged slurmctld slurmd srun sinfo; do
  PATH=$PATH:/usr/sbin command -v $program > /dev/null || {
    echo "error: $program not found; fix: apt-get install munge slurmctld slurmd slurm-client" >&2; exit 1; }
done
"$head/bin/python" -c "import snakemake_executor_plugin_slurm" || {
  echo "error: $head lacks the Slurm executor; fix: install envs/slurm.txt there, or set HEAD" >&2; exit 1; }
"$jobs/bin/python" -c "import snakemake_executor_plugin_slurm_jobstep, torch" || {
  echo "error: $jobs cannot run jobs; fix: install envs/cpu.txt and the jobstep plugin there, or set JOBS" >&2; exit 1; }

# The cluster's files
export PATH=$PATH:/usr/sbin SLURM_CONF=$folder/slurm.conf
mkdir -p "$folder"/{bin,state,spool,log}
chmod 755 "$folder"
free_ports() { "$head/bin/python" -c "
import socket
sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))"; }
read -r controller_port node_port < <(free_ports)
sed -e "s|@FOLDER@|$folder|; s|@HOST@|$(hostname -s)|; s|@USER@|$(id -un)|" \
    -e "s|@CONTROLLER_PORT@|$controller_port|; s|@NODE_PORT@|$node_port|" "$root/tests/slurm/slurm.conf" > "$SLURM_CONF"
# Slurm takes devices alone; without cgroups it never touches them. These stand for /dev/nvidia0 and 1.
printf 'Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n' > "$folder/gres.conf"
# Slurm prints what this prints after `print` into the job's log
printf '#!/bin/sh\necho "print slurm: job $SLURM_JOB_ID CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-none}"\n' > "$folder/task_prolog.sh"
chmod +x "$folder/task_prolog.sh"
# Inside a job the executor clears SLURM_CONF, which a real cluster does not need
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$folder/bin/srun"
chmod +x "$folder/bin/srun"
export PATH=$folder/bin:$PATH
head -c 128 /dev/urandom > "$folder/munge.key"
chmod 600 "$folder/munge.key"

# The daemons, in the foreground so that their ids are known; whatever ends this script, they and Snakemake end too
daemons=() snakemake=
stop() {
  [ -z "$snakemake" ] || kill -KILL "$snakemake" 2> /dev/null || true
  [ ${#daemons[@]} -lt 3 ] || scancel --user "$(id -un)" --quiet || true
  for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do kill "${daemons[i]}" 2> /dev/null && wait "${daemons[i]}" || true; done
}
trap stop EXIT
trap 'exit 143' TERM INT
munged --foreground --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
  --log-file "$folder/log/munged.log" --seed-file "$folder/munge.seed" > "$folder/log/munged.out" 2>&1 &
daemons+=($!)
for _ in {1..50}; do [ -S "$folder/munge.socket" ] && break; sleep 0.2; done
slurmctld -D -f "$SLURM_CONF" > "$folder/log/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -f "$SLURM_CONF" > "$folder/log/slurmd.log" 2>&1 &
daemons+=($!)
for _ in {1..100}; do sinfo -h -o %t 2> /dev/null | grep -q idle && break; sleep 0.3; done
sinfo -N -o "%N %t %c cores %m MB %G" || { tail -n 20 "$folder"/log/*; exit 1; }

# The study, from a copy, with pretend cards for the lease
mkdir -p "$folder/study"
cp -r "$root"/{Snakefile,README.md,config.yaml,rules,profiles,resources,workflow_scripts,envs} "$folder/study/"
ln -sfn "$jobs" "$folder/study/.venv-gpu"
cd "$folder/study"
export LEASE_GPU_POOL='{"gpus": ["GPU-a", "GPU-b"]}'
cells=results/small/cells/evil_ai
"$head/bin/snakemake" --profile profiles/slurm --jobs 4 --latency-wait 10 --default-resources mem_mb=2000 runtime=20 \
  --configfile profiles/tiny/study.yaml "$root/tests/end_to_end/small.yaml" "$root/tests/slurm/study.yaml" \
  --slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 \
  --slurm-keep-successful-logs ${DRY_RUN:+-n} "$cells/C1_seed42.json" "$cells/C5_seed42.json" &
snakemake=$!
wait "$snakemake"
snakemake=
[ -n "${DRY_RUN:-}" ] || "$head/bin/python" "$root/tests/slurm/check_leases.py" --slurm-logs .snakemake/slurm_logs \
  --logs results/small/logs --benchmarks results/small/benchmarks --cards 2
