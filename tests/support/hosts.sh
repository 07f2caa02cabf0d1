# shellcheck shell=bash
# Several hosts on one machine: network namespaces h1, h2, ... around a switch, each with its own
# host name, addresses 10.98.0.1, 10.98.0.2, ... To be sourced; needs root and iproute2.
#
#   hosts_possible          says why not, and fails, where the machine does not allow it
#   hosts_up <n>            makes them; hosts_down removes them
#   hosts_rate <rate>       limits every host's link in both directions, as tc takes it: 1gbit
#   host_link <i> up|down   plugs host i's cable in or out
#   hosts_sent <i>          how many bytes host i has sent so far
#   "${hosts_mpirun[@]}"    mpirun among the hosts: append --host "$(hosts_slots <n>)" -n ...
#   hosts_slots <n>         all hosts with n slots each
#
# The namespaces bear names of this shell's own, so that several tests may run at once. The switch
# and mpirun live in a namespace, too: nothing of the machine's own network is touched.
hosts_name=ls$$
hosts_count=0
hosts_switch=${hosts_name}s
hosts_mpirun=()

hosts_possible() {
  if ! command -v ip > /dev/null || ! command -v tc > /dev/null; then
    echo "no iproute2 (ip, tc)"
    return 1
  fi
  if ! ip netns add "${hosts_name}t" 2> /dev/null; then
    echo "making network namespaces is not allowed here (it takes root)"
    return 1
  fi
  if ! ip -n "${hosts_name}t" link add probe type bridge 2> /dev/null; then
    ip netns del "${hosts_name}t"
    echo "the kernel makes no bridges"
    return 1
  fi
  ip netns del "${hosts_name}t"
}

hosts_up() {
  local i
  ip netns add "$hosts_switch" || return 1
  ip -n "$hosts_switch" link set lo up
  ip -n "$hosts_switch" link add switch type bridge
  ip -n "$hosts_switch" addr add 10.98.0.254/24 dev switch
  ip -n "$hosts_switch" link set switch up
  for ((i = 1; i <= $1; ++i)); do
    ip netns add "${hosts_name}h$i"
    hosts_count=$i
    ip -n "$hosts_switch" link add "port$i" type veth peer name eth0 netns "${hosts_name}h$i"
    ip -n "$hosts_switch" link set "port$i" master switch up
    ip -n "${hosts_name}h$i" addr add "10.98.0.$i/24" dev eth0
    ip -n "${hosts_name}h$i" link set eth0 up
    ip -n "${hosts_name}h$i" link set lo up
  done
  hosts_mpirun=(ip netns exec "$hosts_switch" mpirun
    --mca plm_rsh_agent "$(dirname "${BASH_SOURCE[0]}")/enter_host.sh"
    --mca oob_tcp_if_include 10.98.0.0/24 --mca btl_tcp_if_include 10.98.0.0/24
    --mca btl self,vader,tcp --mca pml ob1 --bind-to none)
}

hosts_rate() {
  local i
  for ((i = 1; i <= hosts_count; ++i)); do
    tc -n "$hosts_switch" qdisc replace dev "port$i" root tbf rate "$1" burst 128k latency 50ms
    tc -n "${hosts_name}h$i" qdisc replace dev eth0 root tbf rate "$1" burst 128k latency 50ms
  done
}

host_link() { ip -n "$hosts_switch" link set "port$1" "$2"; }

hosts_sent() {
  ip netns exec "${hosts_name}h$1" cat /sys/class/net/eth0/statistics/tx_bytes
}

hosts_slots() {
  local i list=""
  for ((i = 1; i <= hosts_count; ++i)); do list+=",${hosts_name}h$i:$1"; done
  echo "${list:1}"
}

hosts_down() {
  local i
  for ((i = 1; i <= hosts_count; ++i)); do ip netns del "${hosts_name}h$i"; done
  if [ "$hosts_count" -gt 0 ]; then ip netns del "$hosts_switch"; fi
  hosts_count=0
}
