#!/usr/bin/env bash
# The link between two hosts, which are network namespaces of this machine, goes down in the middle
# of a training: both ranks say so, in their logs, and end. Open MPI's own processes may not, so
# they are killed then. Exits with 77, which is "skipped", where namespaces may not be made.
#
#   link_down_test.sh FASHION_MNIST
set -u
# shellcheck source=tests/support/jobs.sh
source "$(dirname "$0")/../support/jobs.sh"
# shellcheck source=tests/support/hosts.sh
source "$(dirname "$0")/../support/hosts.sh"
hosts_possible || exit 77
trap 'kill_job; hosts_down; rm -rf "$dir"' EXIT
hosts_up 2 || exit 1

kill_job() { job_processes | xargs -r kill -9 2> /dev/null; }
ranks_alive() {
  local pid alive=0
  while read -r pid _; do
    if [ -d "/proc/$pid" ]; then alive=$((alive + 1)); fi
  done < "$dir/ranks"
  echo "$alive"
}
# wait_for <seconds> <command...>: until it succeeds.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}
trains() { grep -qs "epoch 1/" "$dir/out"; }
nobody_lives() { [ "$(ranks_alive)" -eq 0 ]; }

LOCKSTEP_TEST_JOB=$dir "${hosts_mpirun[@]}" --host "$(hosts_slots 1)" -n 2 \
  "${recorded[@]}" "$1" --model mlp --max-steps 1000000 --seed 1 --watchdog 2 \
  --log-dir "$dir/logs" > "$dir/out" 2>&1 < /dev/null &
if wait_for 60 trains; then
  host_link 2 down
  # The watchdog's time, and ten seconds.
  wait_for 12 nobody_lives || complain "$(ranks_alive) ranks live on"
  for rank in 0 1; do
    grep -qE "error: \[rank $rank\] .*rank $((1 - rank)) has not arrived" \
      "$dir/logs/rank_000$rank.log" || complain "rank $rank does not say that rank $((1 - rank)) is missing"
  done
else
  complain "the training does not begin"
fi
sed 's/^/  | /' "$dir/out" "$dir"/logs/*.log
end_of_test
