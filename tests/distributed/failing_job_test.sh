#!/usr/bin/env bash
# A rank throws, is killed, crashes or leaves: every other rank says so, mpirun ends soon and with
# an error, and no process and no file in /dev/shm stays behind.
#
#   failing_job_test.sh PROGRAM MPIRUN...
set -u
program=$1
shift
mpirun=("$@")
failures=0
# The exit code of a crash is looked at, so AddressSanitizer must not catch it.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}handle_segv=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
  echo "FAILED ($what): $*"
  sed 's/^/    /' "$log"
  failures=$((failures + 1))
}

# check <how> <expected exit code, or "any" for any but 0> <number of reports> <text in each>
check() {
  local how=$1 code=$2 reports=$3 text=$4
  local before after start=$SECONDS rc
  local token="token-$$-$RANDOM"
  what="$how, ${LOCKSTEP_RANKS_PER_NODE:-all} ranks per node"
  before=$(ls /dev/shm)
  timeout -k 5 20 "${mpirun[@]}" -n 3 "$program" "$how" "$token" >"$log" 2>&1
  rc=$?
  local took=$((SECONDS - start))
  after=$(ls /dev/shm)
  [ "$took" -lt 10 ] || fail "took $took s"
  if [ "$code" = any ]; then
    [ $rc -ne 0 ] && [ $rc -ne 124 ] || fail "exit code $rc"
  else
    [ $rc -eq "$code" ] || fail "exit code $rc, expected $code"
  fi
  local found
  found=$(grep -c "^failed: .*$text" "$log")
  [ "$found" -eq "$reports" ] || fail "$found reports of \"$text\", expected $reports"
  [ "$before" = "$after" ] || fail "left in /dev/shm: $after"
  if pgrep -f "$token" >/dev/null; then fail "processes are left"; fi
  if grep -qi "unlink" "$log"; then fail "MPI complains"; fi
  echo "ok: $what: exit code $rc after $took s"
}

for ranks_per_node in "" 2; do
  export LOCKSTEP_RANKS_PER_NODE=$ranks_per_node
  check none 0 0 ""
  check throw 1 3 "no more data"
  check leave any 2 "rank 2 has destroyed its process group"
done
export LOCKSTEP_RANKS_PER_NODE=
check kill 137 2 "rank 2 (pid .*) has ended"
check segv 139 2 "rank 2 (pid .*) has ended"
check exit 5 2 "rank 2 (pid .*) has ended"

# The program is linked with another MPI than the launcher belongs to: a world of one each.
what="foreign launcher"
(
  unset "${!OMPI_COMM_WORLD_@}"
  PMI_RANK=1 PMI_SIZE=2 timeout 20 "$program" none
) >"$log" 2>&1
[ $? -eq 1 ] || fail "exit code"
grep -q "the launcher says rank 1 of 2, but MPI says rank 0 of 1" "$log" || fail "no explanation"

[ $failures -eq 0 ]
