#!/usr/bin/env bash
# Runs a command while several hosts exist: network namespaces of this machine around a switch, with
# links of a given rate (tests/support/hosts.sh). Needs root and iproute2.
#
#   bench/on_hosts.sh <hosts> <rate as tc takes it> <command...>
#   bench/on_hosts.sh 2 1gbit bench/compare_data_parallel.py build --peer PROGRAM
#
# The command finds, in its environment, how to start one rank on each host: LOCKSTEP_HOSTS_MPIRUN
# is the beginning of an mpirun command, LOCKSTEP_HOSTS the names of the namespaces.
set -euo pipefail
if [[ $# -lt 3 ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
# shellcheck source=tests/support/hosts.sh
source "$(dirname "$0")/../tests/support/hosts.sh"
hosts_possible
trap hosts_down EXIT
hosts_up "$1"
hosts_rate "$2"
LOCKSTEP_HOSTS_MPIRUN="${hosts_mpirun[*]} --host $(hosts_slots 1)"
LOCKSTEP_HOSTS=$(hosts_slots 1 | sed 's/:1//g; s/,/ /g')
export LOCKSTEP_HOSTS_MPIRUN LOCKSTEP_HOSTS
"${@:3}"
