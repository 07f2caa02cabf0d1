#!/bin/bash
# faults_test.sh <faulty_program> <fashion_mnist> <case> <mpirun and its options...>
#
# Something goes wrong in a training job: every rank that still lives says what and where, mpirun
# ends within ten seconds and not with 0, and no process and no file in /dev/shm stays behind.
set -u
# shellcheck source=tests/support/jobs.sh
source "$(dirname "$0")/../support/jobs.sh"
program=("${recorded[@]}" "$1")
example=("${recorded[@]}" "$2")
case=$3
shift 3
mpirun=("$@")
limit=10  # seconds in which a job that fails must have ended
nodes=("" 2 1)  # how many ranks a node has, by turns; "": all

start() { run_job "$limit" "$@"; }
job() { start "${mpirun[@]}" -n "$1" "${program[@]}" --accumulate 2 --max-steps 200 "${@:2}"; }

# diagnose <fault> <a rank that cannot speak, or -1> <what every other rank says>: on one node and
# on several. Every rank that speaks leaves its last collectives behind.
diagnose() {
  local per_node rank
  for per_node in "${nodes[@]}"; do
    export LOCKSTEP_RANKS_PER_NODE=$per_node
    rm -rf "$dir/logs"
    job 3 --fault "$1" --watchdog 2 --log-dir "$dir/logs"
    fails
    every_rank_says 3 "$2" "$3"
    for rank in 0 1 2; do
      [ "$rank" -eq "$2" ] && continue
      grep -q '"operation": "all_reduce"' "$dir/logs/lockstep-collectives-rank$rank.json" ||
        complain "no record of rank $rank's collectives"
    done
  done
}

case $case in
  fine)
    limit=60  # nothing fails here, and sanitizers are slow
    for ranks in 1 3; do
      job $ranks
      succeeds
      silent 'error'
    done
    ;;
  model)
    for bad in 0 2; do
      [ $bad -eq 0 ] && counts='8 params, while rank 1 has inconsistent 6' \
        || counts='6 params, while rank 2 has inconsistent 8'
      job 3 --fault model --bad-rank $bad
      fails
      every_rank_says 3 -1 "DDP expects same model across all ranks, but Rank 0 has $counts params"
      silent 'epoch 1'
    done
    job 2 --fault shape
    fails
    every_rank_says 2 -1 'params\[0\] in this process with sizes \[64, 21\].*fc1.weight'
    ;;
  dtype)
    job 3 --fault dtype
    fails
    every_rank_says 3 -1 '\[1\]: params\[2\] in this process .*fc2.weight float64.*fc2.weight float32.* on rank 0'
    ;;
  order)
    diagnose order -1 "do not match in call [0-9]*: ranks 0, 2 call all_reduce.* \(step 3, bucket 0: fc3.bias\); rank 1 calls all_reduce.* \(step 3, bucket 0: judge.bias, judge.weight\)"
    ;;
  extra)
    diagnose extra -1 "do not match in call [0-9]*: ranks 0, 2 call all_reduce.* \(step 3, bucket 0: fc3.bias\); rank 1 calls all_reduce\(sum\) of 1 float32 \(step 3\)"
    ;;
  leave)
    diagnose leave -1 "do not match in call [0-9]*: ranks 0, 2 call all_reduce.* \(step 3, bucket 0: fc3.bias\); rank 1 calls all_reduce\(max\) of 4 float64 \(step 3, the job's report\)"
    ;;
  slow)
    limit=15
    late="\(step 3, bucket 0: fc3.bias\), has waited for .*rank 1 has not arrived; its last call was [0-9]*, all_reduce.* \(step 2, .*; it has been in step 3 for"
    diagnose sleep -1 "$late"
    nodes=("")  # what the rank does makes no difference to its peers
    diagnose loop -1 "$late"
    ;;
  stop)
    limit=15
    for per_node in "${nodes[@]}"; do
      export LOCKSTEP_RANKS_PER_NODE=$per_node
      job 3 --fault stop --watchdog 2
      fails
      every_rank_says 3 1 "\(step 3, bucket 0: fc3.bias\), has waited for .*rank 1 has not arrived"
      if [ "$per_node" = 1 ]; then
        says 'rank 1 has not arrived and does not answer; its last call was [0-9]*, all_reduce.*\(step 2, '
      else
        says 'rank 1 .*it has been in step 3 for .*, and its process is stopped'
      fi
    done
    ;;
  nan)
    diagnose nan -1 'gradient of fc2.weight is not finite on rank 1 \(nan at element 17\) in step 3'
    ;;
  flip)
    diagnose flip -1 'in step 4 the replicas are not in lockstep any more: parameter fc2.weight is not the same on all ranks: rank 1 has .* at element 17 where rank 0 has .*1 of 4096 elements differ.*; ranks 0, 2 agree'
    diagnose flip-state -1 'parameter fc1.bias is not the same .*rank 1 has .*; ranks 0, 2 agree. Also momentum_buffer of fc1.bias'
    ;;
  data)
    job 2 --fault data --bad-data "$dir/nowhere"
    fails
    every_rank_says 2 -1 "train-images-idx3-ubyte.* $dir/nowhere"
    # A truncated file, on one rank and on all.
    root=${LOCKSTEP_DATA:-/usr/share/datasets}
    for file in "$root"/*-ubyte* "$root"/fashion-mnist/*-ubyte*; do
      [ -f "$file" ] && head -c 3000 "$file" > "$dir/$(basename "$file")"
    done
    job 2 --fault data --bad-data "$dir"
    fails
    every_rank_says 2 -1 "$dir/train-images-idx3-ubyte"
    start "${mpirun[@]}" -n 2 "${example[@]}" --model mlp --data "$dir"
    fails
    every_rank_says 2 -1 "$dir/train-images-idx3-ubyte"
    start "${example[@]}" --model mlp --data "$dir/nowhere"
    fails
    says "error: .*$dir/nowhere.*dataset-fashion-mnist"
    ;;
  usage)
    start "${mpirun[@]}" -n 2 "${example[@]}" --modle mlp
    fails
    every_rank_says 2 -1 '--modle'
    start "${mpirun[@]}" -n 2 "${example[@]}" --model vgg
    fails
    every_rank_says 2 -1 'vgg'
    start "${mpirun[@]}" -n 3 "${example[@]}" --global-batch 2
    fails
    every_rank_says 3 -1 '--global-batch 2'
    # On one rank only: the other one, which waits for MPI to start, hears of it from the launcher.
    start "${mpirun[@]}" -n 1 "${program[@]}" : -n 1 "${program[@]}" --bogus
    fails
    says '^\[rank 1/2\] error: .*--bogus'
    says '^\[rank 0/2\] error: '
    ;;
  forward)
    for bad in 0 2; do
      job 3 --fault forward --bad-rank $bad
      fails
      every_rank_says 3 -1 'deliberate failure'
    done
    ;;
  backward)
    for fault in backward-first backward-last; do
      for bad in 0 2; do
        job 3 --fault $fault --bad-rank $bad
        fails
        says "^\[rank $bad/3\] error: deliberate failure"
        every_rank_says 3 $bad "step 3 .*rank $bad failed: deliberate failure"
      done
    done
    start "${program[@]}" --accumulate 2 --fault backward-last --bad-rank 0
    [ "$code" -eq 1 ] || complain "exit code $code instead of 1"
    says 'error: deliberate failure'
    ;;
  kill)
    for bad in 0 1; do
      job 3 --fault kill --bad-rank $bad
      fails
      every_rank_says 3 $bad "rank $bad"
    done
    ;;
  cancel)
    # SIGTERM to mpirun itself, in the middle: as soon as the training has begun.
    # shellcheck disable=SC2016  # the inner shell expands it
    start bash -c '
      "$@" &
      for _ in $(seq 200); do
        grep -q "training on" "$LOCKSTEP_TEST_JOB/err" && break
        sleep 0.1
      done
      sleep 0.5
      kill -TERM $!
      wait $!' cancel "${mpirun[@]}" -n 2 "${program[@]}" --fault slow --epochs 100
    [ "$code" -ne 0 ] || complain "exit code 0"
    says 'epoch|training on'
    every_rank_says 2 -1 'terminated by signal 15'
    ;;
  *)
    complain "no such case: $case"
    ;;
esac
end_of_test
