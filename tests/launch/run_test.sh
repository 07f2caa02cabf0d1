#!/bin/bash
# run_test.sh <program> <case> <mpirun and its options...>
#
# Starts <program> (run_program.cc) as a job and checks how it ends: exit code, within ten seconds,
# with a clear line from every rank that still lives, and with nothing left behind.
set -u
program=$1
case=$2
shift 2
mpirun=("$@")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failures=0

complain() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# start <seconds> <command...>: runs it, keeps $code, $dir/out, $dir/err and checks the time.
start() {
  local limit=$1 begin=$SECONDS
  shift
  ls /dev/shm > "$dir/shm_before"
  echo "\$ $*"
  LOCKSTEP_RUN_TEST=$dir timeout -k 5 60 "$@" > "$dir/out" 2> "$dir/err" < /dev/null
  code=$?
  sed 's/^/  | /' "$dir/out" "$dir/err"
  echo "  exit code $code after $((SECONDS - begin)) s"
  [ $((SECONDS - begin)) -le "$limit" ] || complain "took longer than $limit s"
  # Processes of ours carry $dir in their environment; they may take a moment to go.
  local left tries
  for tries in 1 2 3 4 5 6 7 8 9 10; do
    left=$(grep -lsF "LOCKSTEP_RUN_TEST=$dir" /proc/[0-9]*/environ | wc -l)
    [ "$left" -eq 0 ] && break
    sleep 0.2
  done
  [ "$left" -eq 0 ] || complain "$left processes are left"
  # A shared-memory file that is new and that no process has mapped was forgotten; those of other
  # jobs on this machine are mapped.
  local file
  for file in $(ls /dev/shm | comm -13 "$dir/shm_before" -); do
    if [ -e "/dev/shm/$file" ] && ! grep -qsF "$file" /proc/[0-9]*/maps; then
      complain "left in /dev/shm: $file"
    fi
  done
}

succeeds() { [ "$code" -eq 0 ] || complain "exit code $code instead of 0"; }
fails() { [ "$code" -ne 0 ] && [ "$code" -ne 124 ] || complain "exit code $code"; }
says() { grep -qE -- "$1" "$dir/out" "$dir/err" || complain "nobody says: $1"; }
silent() { ! grep -qE -- "$1" "$dir/out" "$dir/err" || complain "somebody says: $1"; }
value() { grep -oE "\"$1\": [^,]*" "$2" | cut -d' ' -f2-; }

batch=12
job() { start 10 "${mpirun[@]}" -n "$1" "$program" --global-batch $batch "${@:2}"; }
alone() { start 10 "$program" --global-batch $batch "$@"; }

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
    ;;
  usage)
    alone --bogus
    [ "$code" -eq 2 ] || complain "exit code $code instead of 2"
    says 'error: .*--bogus'
    job 2 --bogus
    fails
    for rank in 0 1; do says "\[rank $rank/2\] error: .*--bogus"; done
    batch=2 job 3
    fails
    for rank in 0 1 2; do says "\[rank $rank/3\] error: .*--global-batch"; done
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
      for ((rank = 0; rank < ranks; ++rank)); do says "\[rank $rank/$ranks\] error: .*absent/r.json"; done
      silent 'epoch 1'
    done
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
        says "^\[rank $bad/$ranks\] error: .*$reason"
        for ((rank = 0; rank < ranks; ++rank)); do says "^\[rank $rank/$ranks\] error: .*$reason"; done
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
      for rank in 0 1 2; do
        [ $rank -eq $bad ] || says "^\[rank $rank/3\] error: "
      done
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
    start 10 timeout --foreground -s TERM 3 "${mpirun[@]}" -n 2 "$program" --mode slow \
      --global-batch $batch --epochs 100
    [ "$code" -ne 0 ] || complain "exit code 0"
    for rank in 0 1; do says "^\[rank $rank/2\] error: terminated by signal 15"; done
    ;;
  *)
    complain "no such case: $case"
    ;;
esac
[ "$failures" -eq 0 ] && echo "PASSED" || exit 1
