cmake_minimum_required(VERSION 3.22)

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "failed (${result}): ${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${SCRATCH})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${SCRATCH}/installed)
# Whoever moves the prefix, as packagers do, must not find the old place written into it.
file(RENAME ${SCRATCH}/installed ${SCRATCH}/moved)

# Nothing that Lockstep itself is built on may be looked for.
set(withheld "")
foreach(package MPI fmt spdlog CLI11 nlohmann_json ZLIB OpenSSL Threads)
  list(APPEND withheld -DCMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
endforeach()
run(${CMAKE_COMMAND} -S ${CONSUMER} -B ${SCRATCH}/build -G ${GENERATOR}
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_BUILD_TYPE=Release
  -DCMAKE_PREFIX_PATH=${SCRATCH}/moved ${withheld})
run(${CMAKE_COMMAND} --build ${SCRATCH}/build)
run(${SCRATCH}/build/consumer)
if(NOT output MATCHES "loss ([0-9.e+-]+) -> ([0-9.e+-]+)")
  message(FATAL_ERROR "the consumer printed no losses: ${output}")
endif()
message(STATUS "${output}")
