#!/bin/bash
# run_test.sh <program> <case> <mpirun and its options...>
#
# Starts <program> (run_program.cc) as a job and checks how it ends: exit code, within ten seconds,
# with a clear line from every rank that still lives, and with nothing left behind.
set -u
# shellcheck source=tests/support/jobs.sh
source "$(dirname "$0")/../support/jobs.sh"
program=("${recorded[@]}" "$1")
case=$2
shift 2
mpirun=("$@")

value() { grep -oE "\"$1\": [^,]*" "$2" | cut -d' ' -f2-; }

batch=12
job() { run_job 10 "${mpirun[@]}" -n "$1" "${program[@]}" --global-batch $batch "${@:2}"; }
alone() { run_job 10 "${program[@]}" --global-batch $batch "$@"; }

case $case in
  ok)
    alone --accumulate 4 --report "$dir/a.json" --epochs 2
    succeeds
    says '^communication  none$'
    for ranks in 1 2 4; do
      job $ranks --accumulate $((4 / ranks)) --report "$dir/b.json" --epochs 2 --log-dir "$dir/logs"
      succeeds
      says "^trained        166 steps in 2 epochs on $ranks rank"
      says "^report         $dir/b.json$"
      silent 'error'
      for key in steps weights_sha256 test_accuracy; do
        [ -n "$(value $key "$dir/a.json")" ] || complain "no $key"
        [ "$(value $key "$dir/a.json")" = "$(value $key "$dir/b.json")" ] || complain "$key differs"
      done
      [ "$(value world_size "$dir/b.json")" = $ranks ] || complain "world_size"
      [ "$(ls "$dir/logs" | wc -l)" -eq $ranks ] || complain "not one log per rank"
      grep -q '\[rank 0/'$ranks'\] epoch 2/2' "$dir/logs/rank_0000.log" || complain "log is empty"
      rm -r "$dir/logs"
    done
    job 2 --trace "$dir/t.json"
    succeeds
    says "^trace          $dir/t.json$"
    for rank in 0 1; do
      grep -q '"pid":'$rank',.*"args":{"name":"rank '$rank' of 2"}' "$dir/t.json" ||
        complain "rank $rank is not in the trace"
      [ "$(grep -c '"name":"step [0-9]*".*"pid":'$rank, "$dir/t.json")" -eq 83 ] ||
        complain "rank $rank's steps are not in the trace"
    done
    ;;
  usage)
    alone --bogus
    [ "$code" -eq 2 ] || complain "exit code $code instead of 2"
    says 'error: .*--bogus'
    job 2 --bogus
    fails
    every_rank_says 2 -1 '--bogus'
    batch=2 job 3
    fails
    every_rank_says 3 -1 '--global-batch'
    job 2 --help
    succeeds
    [ "$(grep -c -- '--accumulate' "$dir/out")" -eq 1 ] || complain "help was not printed once"
    alone --version
    succeeds
    says 'Lockstep [0-9]'
    OMPI_COMM_WORLD_RANK=1 alone
    fails
    says 'error: .*OMPI_COMM_WORLD_SIZE'
    # Another MPI's launcher: the environment says two ranks, MPI knows of one.
    PMI_RANK=0 PMI_SIZE=2 alone
    fails
    says 'error: .*rank 0 of 2.*rank 0 of 1'
    ;;
  report)
    for ranks in 1 2; do
      job $ranks --report "$dir/absent/r.json"
      fails
      every_rank_says $ranks -1 'absent/r.json'
      silent 'epoch 1'
    done
    job 2 --trace "$dir/absent/t.json"
    fails
    every_rank_says 2 -1 'absent/t.json'
    silent 'epoch 1'
    job 2 --log-dir /proc/nowhere
    fails
    says 'error: .*/proc/nowhere'
    ;;
  throw | throw-int | data)
    for bad in 0 1; do
      for ranks in 2 3; do
        job $ranks --mode "$case" --bad-rank $bad
        fails
        case $case in
          throw) reason='deliberate failure' ;;
          throw-int) reason='no std::exception' ;;
          data) reason='dataset-fashion-mnist' ;;
        esac
        every_rank_says $ranks -1 "$reason"
      done
    done
    alone --mode "$case" --bad-rank 0
    [ "$code" -eq 1 ] || complain "exit code $code instead of 1"
    says "error: .*$reason"
    ;;
  weights)
    job 3 --mode weights --bad-rank 2 --report "$dir/r.json"
    fails
    for rank in 0 1 2; do
      says "^\[rank $rank/3\] error: .*weights differ.*rank(s 0, 1 have|  *2 has)"
    done
    [ ! -e "$dir/r.json" ] || complain "a report was written"
    ;;
  kill | segv)
    for bad in 0 1; do
      job 3 --mode "$case" --bad-rank $bad
      fails
      every_rank_says 3 $bad ''
    done
    ;;
  term)
    job 2 --mode term
    fails
    says '^\[rank 1/2\] error: terminated by signal 15'
    says '^\[rank 0/2\] error: '
    ;;
  cancel)
    # SIGTERM to mpirun itself, once, in the middle of a long job.
    run_job 10 timeout --foreground -s TERM 3 "${mpirun[@]}" -n 2 "${program[@]}" --mode slow \
      --global-batch $batch --epochs 100
    [ "$code" -ne 0 ] || complain "exit code 0"
    every_rank_says 2 -1 'terminated by signal 15'
    ;;
  *)
    complain "no such case: $case"
    ;;
esac
end_of_test
