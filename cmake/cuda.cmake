# Whether the CUDA plugin is built, and with what. Before any target: the language must be there.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90 CACHE STRING "GPU architectures to compile for, e.g. 80;90")
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(LOCKSTEP_NVCC nvcc PATHS /usr/local/cuda/bin)
  mark_as_advanced(LOCKSTEP_NVCC)
  if(LOCKSTEP_NVCC)
    set(ENV{CUDACXX} ${LOCKSTEP_NVCC})
  endif()
endif()
set(has_cuda OFF)
if(NOT DEFINED LOCKSTEP_CUDA)
  # A compiler that does not get along with the host's, or is too old, is no reason to fail.
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE text ERROR_QUIET)
    if(text MATCHES "release ([0-9]+)\\." AND CMAKE_MATCH_1 GREATER_EQUAL 12)
      set(has_cuda ON)
    else()
      message(STATUS "No CUDA plugin: ${CMAKE_CUDA_COMPILER} is older than CUDA 12")
    endif()
  else()
    unset(CMAKE_CUDA_COMPILER)
    unset(CMAKE_CUDA_COMPILER CACHE)
  endif()
endif()
option(LOCKSTEP_CUDA "Build the CUDA plugin, liblockstep_cuda.so" ${has_cuda})

if(LOCKSTEP_CUDA)
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.25.2 knows no C++20 here
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  find_package(CUDAToolkit REQUIRED)

  # cuDNN is a package of its own.
  find_path(LOCKSTEP_CUDNN_INCLUDE_DIR cudnn_graph.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(LOCKSTEP_CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR})
  mark_as_advanced(LOCKSTEP_CUDNN_INCLUDE_DIR LOCKSTEP_CUDNN_LIBRARY)
  set(has_cudnn OFF)
  if(LOCKSTEP_CUDNN_INCLUDE_DIR AND LOCKSTEP_CUDNN_LIBRARY)
    set(has_cudnn ON)
  endif()
  option(LOCKSTEP_CUDA_CUDNN "Use cuDNN for convolutions" ${has_cudnn})
  if(LOCKSTEP_CUDA_CUDNN AND NOT has_cudnn)
    message(FATAL_ERROR "LOCKSTEP_CUDA_CUDNN is on and there is no cuDNN 9: install it, name its "
      "folders in CMAKE_PREFIX_PATH, or configure with -DLOCKSTEP_CUDA_CUDNN=OFF")
  endif()
  if(LOCKSTEP_CUDA_CUDNN)
    message(STATUS "Convolutions on GPUs: cuDNN (${LOCKSTEP_CUDNN_LIBRARY})")
  else()
    message(STATUS "Convolutions on GPUs: slow kernels, without cuDNN")
  endif()
endif()

# Plugin and core exchange C++ objects: both carry a hash of what these headers say, and the core
# refuses a plugin with another one (engine/plugin_table.h).
set(seam "")
foreach(header backend.h plugin_table.h sync_debug.h transfer.h ops/pointwise_call.h
    ops/pointwise_list.h tensor/device.h tensor/dims.h tensor/draw.h tensor/dtype.h tensor/error.h
    tensor/intrusive.h tensor/philox.h tensor/random.h tensor/scalar.h tensor/storage.h
    tensor/tensor.h tensor/tensor_impl.h autograd/gradient_slot.h autograd/node.h
    autograd/view_history.h)
  file(READ ${PROJECT_SOURCE_DIR}/engine/${header} text)
  string(APPEND seam "${text}")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
    ${PROJECT_SOURCE_DIR}/engine/${header})
endforeach()
string(SHA256 seam "${seam} ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
string(SUBSTRING ${seam} 0 12 seam)
set(LOCKSTEP_PLUGIN_ABI ${PROJECT_VERSION}-${seam})
