#!/usr/bin/env bash
# clang-tidy over the library, the examples and the benchmarks, all cores. (Tests are compiled with
# the same warnings as errors; GoogleTest's macros make tidying them slow and noisy.)
#
#   scripts/check_tidy.sh [build folder [path regex...]]
#
# The build folder (default: build) must be configured; what it has compiled does not matter.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$(realpath "${1:-build}")
tool=$(command -v run-clang-tidy-14 || command -v run-clang-tidy) || {
  echo 'check_tidy: no run-clang-tidy; call scripts/install_packages.sh lint' >&2
  exit 1
}
if [[ ! -f $build/compile_commands.json ]]; then
  echo "check_tidy: $build is not configured; call cmake -S . -B $build" >&2
  exit 1
fi
shift || true
[[ $# -gt 0 ]] || set -- "^$root/(engine|nn|optim|data|distributed|launch|examples|bench)/.*\.cc\$"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
log=$scratch/log

# The commands as clang can follow them. GCC's precompiled headers are unreadable to it, and a source
# that a test compiles once more is looked at as its own library compiles it, which stands first.
awk '
  /^\{/ { entry = "" }
  /^  "file": / { file = $2 }
  { gsub(/ -Winvalid-pch| -include [^ "]*cmake_pch\.[^ "]*/, "") }
  /^[{ ]/ { entry = entry $0 "\n" }
  /^\}/ && !seen[file]++ { entries = entries separator entry "}"; separator = ",\n" }
  END { print "[\n" entries "\n]" }
' "$build/compile_commands.json" >"$scratch/compile_commands.json"

tidy() {
  nice -n 5 "$tool" -p "$scratch" -quiet -j "$(nproc)" "$@" >"$log" 2>&1
}

# Every finding once, however many sources include the header; no colours, no command lines.
findings() {
  sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '
    /^[^ ].*:[0-9]+:[0-9]+: (fatal error|error|warning):/ { show = !seen[$0]++ }
    /^(\/usr\/bin\/)?clang-tidy/ || /^[0-9]+ (warning|error)s?/ { next }
    show'
}

# Sources on which the tool itself died; that is no finding, and seldom happens twice.
crashed() {
  sed -n 's/^\(.*\): terminated by signal [0-9]*$/\1/p' "$log"
}

status=0
tidy "$@" || status=$?
files=$(grep -c 'clang-tidy' "$log") || true
if [[ $files -eq 0 ]]; then
  echo "check_tidy: no source matched" >&2
  exit 1
fi
mapfile -t again < <(crashed)
if [[ $status -ne 0 && ${#again[@]} -gt 0 && -z $(findings) ]]; then
  printf 'check_tidy: clang-tidy died on %s; once more\n' "${again[@]}" >&2
  status=0
  "${tool/run-/}" -p "$scratch" -quiet "${again[@]}" >"$log" 2>&1 || status=$?
fi
if [[ $status -ne 0 ]]; then
  found=$(findings)
  # A failure without a finding is the tool's: its own words say why.
  [[ -n $found ]] || found=$(grep -v '^[0-9]* warnings\? \|^clang-tidy' "$log" | tail -n 60) || true
  printf '%s\n' "$found" 'check_tidy: see above' >&2
  exit 1
fi
echo "check_tidy: $files files, nothing to say"
