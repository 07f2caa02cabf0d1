#!/usr/bin/env bash
# A rank throws, is killed, crashes or leaves: every other rank says so, mpirun ends soon and with
# an error, and no process and no file in /dev/shm stays behind.
#
#   failing_job_test.sh PROGRAM MPIRUN...
set -u
# shellcheck source=tests/support/jobs.sh
source "$(dirname "$0")/../support/jobs.sh"
program=("${recorded[@]}" "$1")
shift
mpirun=("$@")
# The exit code of a crash is looked at, so AddressSanitizer must not catch it.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}handle_segv=0

# check <how> <expected exit codes, or "any" for any but 0> <number of reports> <text in each>
check() {
  local expected=$2 reports=$3 text=$4 found
  run_job "$limit" "${mpirun[@]}" -n 3 "${program[@]}" "$1"
  if [ "$expected" = any ]; then
    fails
  else
    [[ " $expected " == *" $code "* ]] || complain "exit code $code instead of $expected"
  fi
  found=$(cat "$dir/out" "$dir/err" | grep -c "^failed: .*$text")
  [ "$found" -eq "$reports" ] || complain "$found reports of \"$text\" instead of $reports"
  silent '[Uu]nlink'  # Open MPI's complaint
}

# Ten seconds from the failure on: a job that fails may take as long as one that does not, which on
# a busy machine is long, and ten more.
for ranks_per_node in 2 ""; do
  export LOCKSTEP_RANKS_PER_NODE=$ranks_per_node
  limit=50
  check none 0 0 ""
  limit=$((took + 10))
  check throw 1 3 "no more data"
  check leave any 2 "rank 2 has destroyed its process group"
done
# mpirun passes on the code of the rank whose end it sees first: rank 2's, unless it is slow to look.
check kill "137 1" 2 "rank 2 (pid .*) has ended"
check segv "139 1" 2 "rank 2 (pid .*) has ended"
check exit "5 1" 2 "rank 2 (pid .*) has ended"

# The program is linked with another MPI than the launcher belongs to: a world of one each.
unset "${!OMPI_COMM_WORLD_@}"
PMI_RANK=1 PMI_SIZE=2 run_job "$limit" "${program[@]}" none
[ "$code" -eq 1 ] || complain "exit code $code instead of 1"
says 'the launcher says rank 1 of 2, but MPI says rank 0 of 1'
end_of_test
