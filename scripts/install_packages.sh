#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that Lockstep needs, those that are missing only.
#
#   scripts/install_packages.sh build|test|lint...
#
# build: compiler, libraries, MPI and what the examples train on; test: GoogleTest, and ip for tests
# across several hosts; lint: the pinned clang tools.
# Without apt it checks that what the packages would bring is there and lists what is not.
set -euo pipefail

# package | how to recognise it where there is no dpkg: a command, a header, a file or
# a folder
declare -A packages
packages[build]='
g++                    command c++
cmake                  command cmake
ninja-build            command ninja
openmpi-bin            command mpirun
libopenmpi-dev         command mpicxx
libspdlog-dev          header spdlog/spdlog.h
libfmt-dev             header fmt/format.h
libcli11-dev           header CLI/CLI.hpp
nlohmann-json3-dev     header nlohmann/json.hpp
libdnnl-dev            header oneapi/dnnl/dnnl.hpp
zlib1g-dev             header zlib.h
libssl-dev             header openssl/evp.h
dataset-fashion-mnist  folder /usr/share/datasets/fashion-mnist
bible-kjv-text         file /usr/lib/bible.data'
packages[test]='
libgtest-dev           header gtest/gtest.h
libgmock-dev           header gmock/gmock.h
iproute2               command ip'
packages[lint]='
clang-format-14        command clang-format-14
clang-tidy-14          command run-clang-tidy-14'

die() {
  printf 'install_packages: %s\n' "$*" >&2
  exit 1
}

is_installed() {  # package kind what
  if command -v dpkg-query >/dev/null; then
    [[ $(dpkg-query --show --showformat='${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]
    return
  fi
  case $2 in
    command) command -v "$3" >/dev/null ;;
    header) command -v c++ >/dev/null && c++ -E -x c++ - <<<"#include <$3>" >/dev/null 2>&1 ;;
    file) [[ -f $3 ]] ;;
    folder) [[ -d $3 || -n ${LOCKSTEP_DATA:-} ]] ;;
  esac
}

has_candidate() {  # does apt know a version of this package?
  [[ $(apt-cache policy "$1" 2>/dev/null) == *Candidate:\ [0-9]* ]]
}

[[ $# -gt 0 ]] || die 'say which: build, test, lint'
missing=()
for group in "$@"; do
  list=${packages[$group]:-}
  [[ -n $list ]] || die "\"$group\" is not one of build, test, lint"
  while read -r package kind what; do
    if [[ -n $package ]] && ! is_installed "$package" "$kind" "$what"; then
      missing+=("$package")
    fi
  done <<<"$list"
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "==> Packages: all that is needed for $* is installed"
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  die "apt-get is not here. Please install what these Debian packages contain, then call again:
  ${missing[*]}"
fi
as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || die "neither root nor sudo. Please have someone run:
  apt-get install ${missing[*]}"
  as_root=(sudo)
fi
as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -q)

echo "==> Packages: installing ${missing[*]}"
unknown() {
  for package in "${missing[@]}"; do
    has_candidate "$package" || printf '%s ' "$package"
  done
}
fresh=no
refresh() {
  [[ $fresh == no ]] || return 1
  fresh=yes
  echo '==> Packages: refreshing the package lists'
  "${as_root[@]}" update || die 'apt-get update failed: is there a network, and is it Debian 12 or newer?'
}
if [[ -n $(unknown) ]]; then
  refresh
  absent=$(unknown)
  [[ -z $absent ]] || die "this system's package lists have no: $absent
  Debian 12 has them all in main. On Ubuntu they are in universe: sudo add-apt-repository universe"
fi
# Lists that are merely old name files that the archive has replaced meanwhile.
install() { "${as_root[@]}" install -y --no-install-recommends "${missing[@]}"; }
install || { refresh && install; } || die "apt-get could not install: ${missing[*]}"
