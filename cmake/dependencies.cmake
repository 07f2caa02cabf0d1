# Everything Lockstep is built on, found once, named as targets. On Debian and Ubuntu
# scripts/install_packages.sh build installs all of it.
macro(lockstep_need package debian_package)
  find_package(${package} QUIET ${ARGN})
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR "Lockstep needs ${package} (Debian: ${debian_package}); "
      "scripts/install_packages.sh build installs all it needs")
  endif()
endmacro()
lockstep_need(Threads libc6-dev)
lockstep_need(ZLIB zlib1g-dev)
lockstep_need(fmt libfmt-dev)
lockstep_need(spdlog libspdlog-dev)
lockstep_need(CLI11 libcli11-dev)
lockstep_need(nlohmann_json nlohmann-json3-dev)
lockstep_need(OpenSSL libssl-dev COMPONENTS Crypto)
set(MPI_CXX_SKIP_MPICXX ON)
lockstep_need(MPI libopenmpi-dev COMPONENTS CXX)

# find_package(dnnl) wants OpenCL's development files, which Lockstep does not need.
find_path(DNNL_INCLUDE_DIR dnnl.hpp PATH_SUFFIXES oneapi/dnnl)
find_library(DNNL_LIBRARY dnnl)
if(NOT DNNL_INCLUDE_DIR OR NOT DNNL_LIBRARY)
  message(FATAL_ERROR "Lockstep needs oneDNN (Debian: libdnnl-dev); "
    "scripts/install_packages.sh build installs all it needs")
endif()
add_library(lockstep_dnnl INTERFACE)
target_include_directories(lockstep_dnnl SYSTEM INTERFACE ${DNNL_INCLUDE_DIR})
target_link_libraries(lockstep_dnnl INTERFACE ${DNNL_LIBRARY})
