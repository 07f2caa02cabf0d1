#!/usr/bin/env bash
# enter_host.sh HOST COMMAND...: what ssh is for real hosts, for those of hosts.sh. mpirun starts its
# daemons through it (plm_rsh_agent); each host has a host name of its own.
host=$1
shift
exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"
