#!/usr/bin/env bash
# Fails where a source is not formatted as .clang-format says; with --fix, formats it.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=$(command -v clang-format-14 || command -v clang-format) || {
  echo 'check_format: no clang-format; call scripts/install_packages.sh lint' >&2
  exit 1
}
version=$("$tool" --version)
if [[ $version != *"version 14."* ]]; then
  echo "check_format: the format is clang-format 14's, this is: $version" >&2
  exit 1
fi
mode=(--dry-run -Werror)
[[ ${1:-} != --fix ]] || mode=(-i)
find lockstep.h engine nn optim data distributed launch examples bench tests cmake \
  \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 -n 16 "$tool" --style=file "${mode[@]}"
