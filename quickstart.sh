#!/usr/bin/env bash
# From an empty machine to two ranks that have trained a convolutional net on Fashion-MNIST.
#
#   ./quickstart.sh [--again]
#
# Installs what is missing, builds, trains, sums up. A second call repeats none of it;
# --again trains once more.
set -euo pipefail
cd "$(dirname "$0")"

again=no
case ${1:-} in
  '') ;;
  --again) again=yes ;;
  -h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  *)
    echo "quickstart.sh: \"$1\" is not known; the only argument is --again" >&2
    exit 2
    ;;
esac

ranks=2
epochs=3
cores=$(nproc)
program=build/examples/fashion_mnist
results=build/quickstart
report=$results/report.json

say() { printf '==> %s\n' "$*"; }
die() {
  printf 'quickstart.sh: %s\n' "$*" >&2
  exit 1
}

scripts/install_packages.sh build

if grep -qs '^CMAKE_BUILD_TYPE:[A-Z]*=Release$' build/CMakeCache.txt &&
  [[ -f build/build.ninja || -f build/Makefile ]]; then
  say 'Configuring: build/ is configured'
else
  say 'Configuring a Release build in build/'
  mkdir -p build
  generator=()
  [[ -f build/CMakeCache.txt ]] || generator=(-G Ninja)
  cmake -S . -B build "${generator[@]}" -DCMAKE_BUILD_TYPE=Release >build/configure.log 2>&1 || {
    cat build/configure.log >&2
    die 'configuring failed, see above'
  }
fi

say "Building with $cores cores"
cmake --build build --parallel "$cores" --target fashion_mnist || die 'the build failed, see above'

if [[ $again == no && $report -nt $program && $report -nt build/liblockstep.so ]]; then
  say 'Training: done before with this build (./quickstart.sh --again trains once more)'
else
  say "Training the CNN on Fashion-MNIST: mpirun -n $ranks, $epochs epochs"
  mkdir -p "$results"
  rm -f "$report"
  if [[ $(id -u) -eq 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  # Oversubscribing is allowed, not forced: with as many cores as ranks it changes nothing.
  mpirun -n "$ranks" --oversubscribe --bind-to none "$program" \
    --model cnn --epochs "$epochs" --seed 1 --log-dir "$results" --report "$report.new" ||
    die "the training failed, see above and the logs in $results/"
  mv "$report.new" "$report" || die 'the training left no report'
fi

# One number out of the report.
number() {
  local value
  value=$(sed -n "s/.*\"$1\"[[:space:]]*:[[:space:]]*\([-+0-9.eE]*\).*/\1/p" "$report" | head -n 1)
  [[ -n $value ]] || die "$report has no number \"$1\""
  printf '%s' "$value"
}
accuracy=$(number test_accuracy)
speed=$(number samples_per_second)
communication=$(number communication_seconds_per_step)
exposed=$(number exposed_communication_seconds_per_step)
steps=$(number steps)
LC_ALL=C awk -v accuracy="$accuracy" -v speed="$speed" -v c="$communication" -v e="$exposed" \
  -v steps="$steps" -v ranks="$ranks" -v report="$report" -v results="$results" 'BEGIN {
  hidden = c > 0 ? 100 * (1 - e / c) : 100
  if (hidden < 0) hidden = 0
  printf "\n"
  printf "  test accuracy   %.2f %%\n", 100 * accuracy
  printf "  speed           %.0f samples/s on %d ranks, %d steps\n", speed, ranks, steps
  printf "  communication   %.2f ms per step, %.0f %% of it hidden behind backward\n", 1000 * c, hidden
  printf "  report          %s\n", report
  printf "  logs            %s/\n", results
}'
