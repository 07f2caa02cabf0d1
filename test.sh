#!/usr/bin/env bash
# Builds Lockstep and runs its tests. The exit code tells; the last lines are ctest's.
#
#   ./test.sh [--all] [ctest arguments...]
#
# --all adds what takes long: full trainings, more ranks, the benchmarks, the sanitizer builds,
# clang-format and clang-tidy; where nvcc is, the CUDA plugin; and its kernels on an emulated device.
# (Without --all the plugin is built only where there is a GPU.)
# Further arguments go to ctest, for example: ./test.sh -R process_group --verbose
set -euo pipefail
cd "$(dirname "$0")"

case ${1:-} in
  -h | --help)
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
packages=(build test)
filter=(-LE '^long$')
bench=OFF
emulation=OFF
cuda=()
[[ -e /dev/nvidia0 ]] || cuda=(-DLOCKSTEP_CUDA=OFF)
if [[ ${1:-} == --all ]]; then
  shift
  packages+=(lint)
  filter=()
  bench=ON
  emulation=ON
  cuda=(-ULOCKSTEP_CUDA)
fi
cores=$(nproc)

scripts/install_packages.sh "${packages[@]}"

echo "==> Configuring build/ (Release, with tests)"
generator=()
[[ -f build/CMakeCache.txt ]] || generator=(-G Ninja)
mkdir -p build
cmake -S . -B build "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DLOCKSTEP_BUILD_TESTS=ON \
  -DLOCKSTEP_WERROR=ON \
  -DLOCKSTEP_BUILD_EXAMPLES=ON -DLOCKSTEP_BUILD_BENCH=$bench \
  -DLOCKSTEP_TEST_CUDA_EMULATION=$emulation "${cuda[@]}" >build/configure.log 2>&1 || {
  cat build/configure.log >&2
  echo 'test.sh: configuring failed, see above' >&2
  exit 1
}
echo "==> Building with $cores cores"
cmake --build build --parallel "$cores"

echo "==> Testing with $cores cores${filter:+, without the long tests (--all runs them too)}"
exec ctest --test-dir build --output-on-failure --no-tests=error --no-label-summary \
  --parallel "$cores" "${filter[@]}" "$@"
