#!/usr/bin/env bash
# Jobs across several hosts, which are network namespaces of this machine: the conformance suite,
# data parallel, and a training that gives the same bits however its ranks are placed. Exits with
# 77, which is "skipped", where namespaces may not be made.
#
#   several_hosts_test.sh MPI_GROUP_TEST DATA_PARALLEL_MPI_TEST FASHION_MNIST
set -u
# shellcheck source=tests/support/jobs.sh
source "$(dirname "$0")/../support/jobs.sh"
# shellcheck source=tests/support/hosts.sh
source "$(dirname "$0")/../support/hosts.sh"
hosts_possible || exit 77
trap 'hosts_down; rm -rf "$dir"' EXIT
hosts_up 4 || exit 1
group_test=("${recorded[@]}" "$1" --gtest_color=no '--gtest_filter=All/MpiGroup.Conforms/*_one_node')
model_test=("${recorded[@]}" "$2" --gtest_color=no)
train=("${recorded[@]}" "$3" --model mlp --max-steps 20 --seed 1)

# passes <ranks>: so says GoogleTest, and more than one test did run.
passes() {
  succeeds
  says "^\[  PASSED  \] [0-9]{2,} tests"
}

# Shared memory would do for ranks that took themselves to be on one host.
travels() {
  local bytes
  bytes=$(hosts_sent 2)
  [ $((bytes - sent_before)) -gt 1000000 ] || complain "host 2 sent $((bytes - sent_before)) bytes"
}

for per_host in 1 2; do
  sent_before=$(hosts_sent 2)
  ranks=$((4 * per_host))
  run_job 100 "${hosts_mpirun[@]}" --host "$(hosts_slots "$per_host")" -n "$ranks" \
    "${group_test[@]}" "--ranks=$ranks"
  passes
  travels
done
run_job 60 "${hosts_mpirun[@]}" --host "$(hosts_slots 1)" -n 4 "${model_test[@]}" --ranks=4
passes

weights=
for placement in "one machine" "one rank per host" "two ranks per host" "three and one"; do
  case $placement in
    "one machine") job=(mpirun --oversubscribe --bind-to none) ;;
    "one rank per host") job=("${hosts_mpirun[@]}" --host "$(hosts_slots 1)") ;;
    "two ranks per host") job=("${hosts_mpirun[@]}" --host "$(hosts_slots 2)") ;;
    "three and one") job=("${hosts_mpirun[@]}" --host "${hosts_name}h1:3,${hosts_name}h2:1") ;;
  esac
  run_job 60 "${job[@]}" -n 4 "${train[@]}" --report "$dir/report.json"
  succeeds
  sum=$(sed -n 's/.*"weights_sha256": "\([0-9a-f]*\)".*/\1/p' "$dir/report.json")
  rm -f "$dir/report.json"
  [[ $sum =~ ^[0-9a-f]{64}$ ]] || complain "no weights_sha256 in the report"
  [ "${weights:=$sum}" = "$sum" ] || complain "with $placement the weights are $sum, not $weights"
done
end_of_test
