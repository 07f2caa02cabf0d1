# Options for the project's own code, applied through the interface target lockstep_options.
add_library(lockstep_options INTERFACE)
target_compile_options(lockstep_options INTERFACE
  -Wall -Wextra
  $<$<BOOL:${LOCKSTEP_WERROR}>:-Werror>
  # A fused multiply-add in a vector body but not in its tail would make bits depend on position.
  -ffp-contract=off
  -fvisibility=default
  # Calls within the library are direct; nobody replaces its functions at load time.
  -fno-semantic-interposition
  # GCC 12 sees overlapping copies in "literal" + std::string (GCC bug 105651).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
if(LOCKSTEP_SANITIZE)
  target_compile_options(lockstep_options INTERFACE
    -fsanitize=${LOCKSTEP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
    # GCC's flow analysis mistakes the instrumentation for paths of the program.
    -Wno-maybe-uninitialized)
  target_link_options(lockstep_options INTERFACE -fsanitize=${LOCKSTEP_SANITIZE})
endif()
if(LOCKSTEP_SANITIZE MATCHES "address")
  target_sources(lockstep_options INTERFACE
    $<$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>:${CMAKE_CURRENT_LIST_DIR}/keep_plugins.cc>)
  target_link_options(lockstep_options INTERFACE
    $<$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>:LINKER:--export-dynamic-symbol=dlclose>)
endif()
