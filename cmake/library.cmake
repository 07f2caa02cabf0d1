# What the core library is linked with and how consumers see it.
target_include_directories(lockstep PUBLIC
  $<BUILD_INTERFACE:${LOCKSTEP_INCLUDE_ROOT}>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
# In BUILD_INTERFACE, all of it: who uses the installed library needs none of these packages.
target_link_libraries(lockstep PRIVATE
  $<BUILD_INTERFACE:lockstep_options> $<BUILD_INTERFACE:lockstep_dnnl>
  $<BUILD_INTERFACE:fmt::fmt> $<BUILD_INTERFACE:spdlog::spdlog> $<BUILD_INTERFACE:CLI11::CLI11>
  $<BUILD_INTERFACE:nlohmann_json::nlohmann_json> $<BUILD_INTERFACE:ZLIB::ZLIB>
  $<BUILD_INTERFACE:OpenSSL::Crypto>
  $<BUILD_INTERFACE:MPI::MPI_CXX> $<BUILD_INTERFACE:Threads::Threads> rt ${CMAKE_DL_LIBS})
target_compile_features(lockstep PUBLIC cxx_std_20)
if(NOT LOCKSTEP_SANITIZE)
  # Calls from one source of the library to another need no table: a tenth of a tiny op.
  target_link_options(lockstep PRIVATE LINKER:-Bsymbolic-functions)
endif()
# So do the thread's own variables on the way of every op, a few bytes in all. The library is
# there when the program starts, so they may lie at a fixed distance.
set_property(SOURCE
  ${PROJECT_SOURCE_DIR}/engine/autograd/grad_mode.cc
  ${PROJECT_SOURCE_DIR}/engine/autograd/graph_task.cc
  ${PROJECT_SOURCE_DIR}/engine/autograd/node.cc
  ${PROJECT_SOURCE_DIR}/engine/autograd/anomaly_mode.cc
  ${PROJECT_SOURCE_DIR}/engine/autograd/saved_tensor_hooks.cc
  ${PROJECT_SOURCE_DIR}/engine/cpu/caching_allocator.cc
  ${PROJECT_SOURCE_DIR}/engine/cpu/thread_pool.cc
  APPEND PROPERTY COMPILE_OPTIONS -ftls-model=initial-exec)
set_target_properties(lockstep PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
  LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}
  INSTALL_RPATH "$ORIGIN")
