# shellcheck shell=bash
# For tests that start whole jobs and look at how they end; to be sourced.
#
#   run_job <seconds> <command...>   what follows is about this command
#   succeeds, fails, says <regex>, silent <regex>, every_rank_says <ranks> <but this one> <text>
#   complain <what is wrong>
#   end_of_test                      last: the exit code of the test
#
# Programs are started as "${recorded[@]}" <program>. A job must end in the time that it is given
# and leave no process and no file in /dev/shm; only its own are looked at, whatever else runs on
# the machine.
recorded=("$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/record_rank.sh")
dir=$(mktemp -d)  # the test's own
trap 'rm -rf "$dir"' EXIT
failures=0
code=0
took=0

complain() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# The processes of the job: those with $dir in their environment.
job_processes() { grep -lsF "LOCKSTEP_TEST_JOB=$dir" /proc/[0-9]*/environ | cut -d/ -f3; }

# Keeps $code, $took, $dir/out and $dir/err.
run_job() {
  local limit=$1 begin=$SECONDS
  shift
  rm -f "$dir/ranks"
  echo "\$ $*"
  # In there, because a job that fails leaves records in the directory that it runs in.
  (cd "$dir" && LOCKSTEP_TEST_JOB=$dir exec timeout -k 5 60 "$@" > "$dir/out" 2> "$dir/err" \
    < /dev/null)
  code=$?
  took=$((SECONDS - begin))
  sed 's/^/  | /' "$dir/out" "$dir/err"
  echo "  exit code $code after $took s"
  [ "$took" -le "$limit" ] || complain "took longer than $limit s"
  check_nothing_is_left
}

check_nothing_is_left() {
  local left pid job file
  [ -s "$dir/ranks" ] || complain "no process was recorded"
  for _ in 1 2 3 4 5 6 7 8 9 10; do  # they may take a moment to go
    left=$(job_processes | wc -l)
    [ "$left" -eq 0 ] && break
    sleep 0.2
  done
  [ "$left" -eq 0 ] || complain "$left processes are left"
  # Ours carry the process id in their names, Open MPI's the number of the job.
  while read -r pid job; do
    for file in /dev/shm/lockstep-"$pid"-* /dev/shm/vader_segment.*".$(printf %x "$job")."*; do
      if [ -e "$file" ]; then complain "left in /dev/shm: $file"; fi
    done
  done < <(sort -u "$dir/ranks")
}

succeeds() { [ "$code" -eq 0 ] || complain "exit code $code instead of 0"; }
fails() { [ "$code" -ne 0 ] && [ "$code" -ne 124 ] || complain "exit code $code"; }
says() { grep -qE -- "$1" "$dir/out" "$dir/err" || complain "nobody says: $1"; }
silent() { ! grep -qE -- "$1" "$dir/out" "$dir/err" || complain "somebody says: $1"; }
every_rank_says() {
  local rank
  for ((rank = 0; rank < $1; ++rank)); do
    [ "$rank" -eq "$2" ] || says "^\[rank $rank/$1\] error: .*$3"
  done
}

end_of_test() {
  if [ "$failures" -eq 0 ]; then
    echo "PASSED"
  else
    exit 1
  fi
}
