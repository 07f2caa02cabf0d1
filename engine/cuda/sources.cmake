# What describes attention and convolutions to cuDNN, and runs without a device. (attention_cudnn.cc
# and conv_cudnn.cc execute them.)
set(LOCKSTEP_CUDNN_PLAN_SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/attention_plan.cc
  ${CMAKE_CURRENT_LIST_DIR}/conv_plan.cc
  ${CMAKE_CURRENT_LIST_DIR}/cudnn_graph.cc
  ${CMAKE_CURRENT_LIST_DIR}/cudnn_library.cc)

# lockstep_cuda_sources(<host> <device>): the plugin's sources, those for the host's compiler and
# the kernels. (The tests compile both for an emulated device, too.) NVIDIA's libraries are apart.
set(LOCKSTEP_CUDA_FOLDER ${CMAKE_CURRENT_LIST_DIR})
function(lockstep_cuda_sources host device)
  set(folder ${LOCKSTEP_CUDA_FOLDER})
  set(${host}
    ${folder}/cuda_backend.cc
    ${folder}/graph.cc
    ${folder}/graph_memory.cc
    ${folder}/index_check.cc
    ${folder}/memory.cc
    ${folder}/pinned.cc
    ${folder}/plugin.cc
    ${folder}/status.cc
    PARENT_SCOPE)
  set(kernels "")
  foreach(topic conv cross_entropy elementwise finite gemm index_check indexing layer_norm low_rank
      norm optimizer pointwise pool reduction scan softmax sort)
    list(APPEND kernels ${folder}/${topic}.cu)
  endforeach()
  foreach(part RANGE 3)  # kPointwiseParts of them
    configure_file(${folder}/pointwise_part.cu.in pointwise_part_${part}.cu @ONLY)
    list(APPEND kernels ${CMAKE_CURRENT_BINARY_DIR}/pointwise_part_${part}.cu)
  endforeach()
  set(${device} ${kernels} PARENT_SCOPE)
endfunction()
