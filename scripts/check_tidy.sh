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
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! nice -n 5 "$tool" -p "$build" -quiet -j "$(nproc)" "$@" >"$log" 2>&1; then
  # Every finding once, however many sources include the header; no colours, no command lines.
  sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '
    /^[^ ].*:[0-9]+:[0-9]+: (error|warning):/ { show = !seen[$0]++ }
    /^(\/usr\/bin\/)?clang-tidy/ || /^[0-9]+ (warning|error)s?/ { next }
    show' >&2
  echo 'check_tidy: see above' >&2
  exit 1
fi
files=$(grep -c 'clang-tidy' "$log") || true
if [[ $files -eq 0 ]]; then
  echo "check_tidy: no source matched" >&2
  exit 1
fi
echo "check_tidy: $files files, nothing to say"
