#!/usr/bin/env bash
# Configures, builds and tests one preset of CMakePresets.json.
#
#   scripts/run_preset.sh release|debug|asan|tsan [ctest arguments...]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:?which preset: release, debug, asan or tsan}
shift

# ThreadSanitizer's shadow memory may collide with a strongly randomised address space.
run=()
if [[ $preset == tsan ]] && setarch "$(uname -m)" -R true 2>/dev/null; then
  run=(setarch "$(uname -m)" -R)
fi

cmake --preset "$preset"
nice -n 5 cmake --build --preset "$preset" --parallel "$(nproc)"
"${run[@]}" ctest --preset "$preset" --parallel "$(nproc)" --no-label-summary "$@"
