#!/usr/bin/env bash
# Configures, builds and tests one preset of CMakePresets.json.
#
#   scripts/run_preset.sh release|debug|asan|tsan [ctest arguments...]
#
# Where nobody watches, only what went wrong is printed, and ctest's closing lines.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:?which preset: release, debug, asan or tsan}
shift

# ThreadSanitizer's shadow memory may collide with a strongly randomised address space.
run=()
if [[ $preset == tsan ]] && setarch "$(uname -m)" -R true 2>/dev/null; then
  run=(setarch "$(uname -m)" -R)
fi

build() {
  cmake --preset "$preset" && nice -n 5 cmake --build --preset "$preset" --parallel "$(nproc)"
}
tests() {
  "${run[@]}" ctest --preset "$preset" --parallel "$(nproc)" --no-label-summary "$@"
}

if [[ -t 1 ]]; then
  build
  tests "$@"
else
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  build >"$log" 2>&1 || {
    tail -n 80 "$log"
    exit 1
  }
  tests "$@" 2>&1 | grep -Ev '^ *(Start +[0-9]+: |[0-9]+/[0-9]+ Test .* Passed )'
fi
