#!/usr/bin/env bash
# Everything that needs a GPU, on the GPUs that there are. Ends within ten minutes on one H100.
#
#   tests/gpu/run_all.sh [build folder] [folder for logs]
#
# The build folder (default: build) was made with LOCKSTEP_CUDA, LOCKSTEP_BUILD_TESTS and
# LOCKSTEP_TEST_CUDA_EMULATION on; if on another machine, then in a checkout at the same path
# (programs and texts are found by it). Of it are needed: lockstep, the two libraries, the examples
# and tests/cuda. CUDA's libraries may lie in Python's packages; MPI is what mpirun in the PATH is.
#
# A step that fails does not stop the others; the last line says how many did, and so does the exit
# code. What cannot run says so and counts as not run, never as passed. LOCKSTEP_GPU_TESTS_SECONDS
# (590) bounds the whole.
set -uo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${1:-build}")
logs=${2:-$build/gpu-logs}
mkdir -p "$logs"
unset LOCKSTEP_CUDA_PLUGIN  # the real one, beside liblockstep.so
export LD_LIBRARY_PATH=$build:${LD_LIBRARY_PATH:-}
export LOCKSTEP_TEST_MPIRUN='mpirun --oversubscribe --bind-to none'
python_packages=$(python3 -c 'import nvidia; print(*nvidia.__path__)' 2>/dev/null)
for folder in /usr/local/cuda/lib64 ${python_packages:+"$python_packages"/{cu13,cudnn,nccl}/lib}; do
  [[ ! -d $folder ]] || LD_LIBRARY_PATH+=:$folder
done
PATH+=:/usr/local/cuda/bin
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1

passed=() failed=() not_run=()
step() {  # name seconds command...
  local name=$1 limit=$2
  shift 2
  local begin=$SECONDS left=$((${LOCKSTEP_GPU_TESTS_SECONDS:-590} - SECONDS))
  if [[ $left -lt 5 ]]; then
    not_run+=("$name")
    echo "not run  $name: the time is over"
    return
  fi
  if timeout $((limit < left ? limit : left)) "$@" >"$logs/$name.log" 2>&1; then
    passed+=("$name")
    echo "passed   $name ($((SECONDS - begin)) s)"
  else
    failed+=("$name")
    echo "FAILED   $name ($((SECONDS - begin)) s); the end of $logs/$name.log:"
    tail -n 25 "$logs/$name.log"
  fi
}
skip() {
  not_run+=("$1")
  echo "not run  $1: $2"
}

if ! timeout 60 "$build/lockstep" doctor --device cuda | tee "$logs/doctor.log"; then
  echo 'run_all: no CUDA device can be used; nothing was run' >&2
  exit 1
fi
command -v nvidia-smi >/dev/null && nvidia-smi >"$logs/nvidia-smi.log" 2>&1

if grep -q 'cuDNN  *[0-9]' "$logs/doctor.log"; then
  passed+=(cudnn)
else
  skip cudnn 'it was not found: convolutions and attention take slow kernels in all that follows'
fi
# (cuda_emulation and cuda_plugin are about machines without a GPU.)
for name in cuda_attention cuda_backend cuda_captured_step cuda_graph cuda_graphed_step \
  cuda_index_checks cuda_jobs cuda_kernels cuda_ops cuda_staged_group; do
  step "$name" 240 "$build/tests/cuda/$name" --gtest_brief=1
done

# Two ranks by NCCL. On a single card NCCL must take them for two machines, which talk over sockets:
# that shows that it is right, and nothing about its speed.
two_by_nccl() {
  local settings=()
  if [[ $(nvidia-smi --list-gpus | wc -l) -lt 2 ]]; then
    settings=(NCCL_NET=Socket NCCL_SOCKET_IFNAME=lo NCCL_MNNVL_ENABLE=0 NCCL_MAX_CTAS=2)
    # shellcheck disable=SC2016 # expanded by each rank
    mpirun --oversubscribe --bind-to none -n 2 env "${settings[@]}" \
      bash -c 'NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK exec "$@"' rank "$@"
  else
    mpirun --oversubscribe --bind-to none -n 2 "$@"
  fi
}
# In mode bitwise two ranks get the weights of one.
bits_by_nccl() {
  local job=("$build/examples/linear_regression" --max-steps 20 --device cuda --global-batch 16
    --reduction bitwise --virtual-shards 4)
  "${job[@]}" --report "$logs/nccl_one.json" || return
  two_by_nccl "${job[@]}" --group nccl --report "$logs/nccl_two.json" || return
  diff <(grep -o '"weights_sha256": *"[0-9a-f]*"' "$logs/nccl_one.json") \
    <(grep -o '"weights_sha256": *"[0-9a-f]*"' "$logs/nccl_two.json")
}
export -f two_by_nccl bits_by_nccl
export build logs
nccl=yes
if grep -q 'NCCL  *none' "$logs/doctor.log" || ! command -v mpirun >/dev/null; then
  nccl=no
  skip nccl 'NCCL or mpirun is missing'
else
  step nccl_group 240 bash -c 'two_by_nccl "$build/tests/cuda/cuda_nccl_group" --ranks=2'
  step nccl_bits 60 bash -c bits_by_nccl
fi

tour() {
  diff <("$build/examples/autograd_tour" --device cuda | sed "s/, device='cuda:0'//g") \
    tests/examples/autograd_tour.expected
}
export -f tour
step autograd_tour 60 bash -c tour

# After 100 steps the loss of a small GPT is the CPU's within 2 %.
last_loss() { grep -oP '"step_losses": *\[[^]]*?\K[0-9.e-]+(?=\s*\])' "$1"; }
char_gpt() {
  local device
  for device in cpu cuda; do
    "$build/examples/char_gpt" --text tests/golden/gpt_text.txt --generate 0 --layers 2 --width 64 \
      --heads 2 --context 32 --global-batch 16 --max-steps 100 --lr 3e-3 --device "$device" \
      --report "$logs/char_gpt_$device.json" || return
  done
  awk -v cpu="$(last_loss "$logs/char_gpt_cpu.json")" \
    -v cuda="$(last_loss "$logs/char_gpt_cuda.json")" \
    'BEGIN { print "last loss", cpu, cuda; exit !(cpu > 0 && cuda > 0.98 * cpu && cuda < 1.02 * cpu) }'
}
export -f last_loss char_gpt
step char_gpt 120 bash -c char_gpt

# Buckets are reduced while backward runs.
overlap() {  # mpi|nccl
  local start=(mpirun --oversubscribe --bind-to none -n 2)
  [[ $1 == mpi ]] || start=(two_by_nccl)
  "${start[@]}" "$build/examples/char_gpt" --text tests/golden/gpt_text.txt --generate 0 \
    --device cuda --group "$1" --global-batch 16 --max-steps 20 --trace "$logs/trace_$1.json" &&
    tests/gpu/overlap_in_trace.py "$logs/trace_$1.json"
}
export -f overlap
if command -v mpirun >/dev/null; then
  step overlap_mpi 60 bash -c 'overlap mpi'
else
  skip overlap_mpi 'mpirun is missing'
fi
if [[ $nccl == yes ]]; then
  step overlap_nccl 60 bash -c 'overlap nccl'
else
  skip overlap_nccl 'NCCL or mpirun is missing'
fi

# As accurate as on the CPU: 85 % and more after an epoch.
train() {
  rm -f "$logs/$1.json"
  "$build/examples/fashion_mnist" --model "$1" --epochs 1 --device cuda --report "$logs/$1.json" &&
    grep -qE '"test_accuracy": ?0\.(8[5-9]|9)' "$logs/$1.json"
}
export -f train
if grep -q 'Fashion-MNIST  in ' "$logs/doctor.log"; then
  for model in mlp cnn cnn_bn; do step "train_$model" 120 bash -c "train $model"; done
else
  skip training 'Fashion-MNIST is not there'
fi

if command -v compute-sanitizer >/dev/null; then
  # NVIDIA's own kernels are slow to watch and theirs to judge; errors of calls that their libraries
  # expect are none.
  for tool in memcheck racecheck; do
    step "$tool" 180 compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 \
      "$build/tests/cuda/cuda_kernels" --gtest_brief=1 \
      --gtest_filter='-*Gemm*:*Product*:*Conv*:*Attention*'
  done
else
  skip compute-sanitizer 'it is not installed'
fi

echo
echo "passed ${#passed[@]}, failed ${#failed[@]}, not run ${#not_run[@]}"
exit "${#failed[@]}"
