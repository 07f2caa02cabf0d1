# cmake -DROOT=<source tree> -P cmake/check_structure.cmake
#
# Fails, naming file and line, when
# - a floor includes a floor that does not lie below it,
# - an include of the project's own is not spelled "lockstep/...", or names no file,
# - a public header includes anything but the standard library and other public headers' kin,
# - a header lacks `#pragma once`.
cmake_minimum_required(VERSION 3.22)
if(NOT ROOT)
  get_filename_component(ROOT ${CMAKE_CURRENT_LIST_DIR} DIRECTORY)
endif()
include(${CMAKE_CURRENT_LIST_DIR}/public_headers.cmake)

# Each floor and what it may include, itself first.
set(engine_sees engine)
set(nn_sees nn engine)
set(optim_sees optim nn engine)
set(data_sees data nn engine)
set(distributed_sees distributed data optim nn engine)
set(launch_sees launch distributed data optim nn engine)
set(floors engine nn optim data distributed launch)

set(faults "")
set(include_pattern "^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"]+)[>\"].*")

function(read_includes file result)
  # Lines of #include with their numbers: "12:path" for <path>, "12:\"path" for "path".
  file(STRINGS ${ROOT}/${file} lines REGEX "^[ \t]*#[ \t]*include")
  set(${result} "${lines}" PARENT_SCOPE)
endfunction()

macro(fault file text)
  string(APPEND faults "  ${file}: ${text}\n")
endmacro()

set(checked 0)
foreach(floor ${floors})
  file(GLOB_RECURSE files RELATIVE ${ROOT}
    ${ROOT}/${floor}/*.h ${ROOT}/${floor}/*.cc ${ROOT}/${floor}/*.cu ${ROOT}/${floor}/*.cuh)
  foreach(file ${files})
    math(EXPR checked "${checked} + 1")
    read_includes(${file} lines)
    foreach(line IN LISTS lines)
      string(REGEX REPLACE "${include_pattern}" "\\1" path "${line}")
      if(NOT line MATCHES "\"")
        continue()
      elseif(NOT path MATCHES "^lockstep/([a-z_]+)/")
        fault(${file} "includes \"${path}\"; write \"lockstep/<floor>/...\"")
        continue()
      endif()
      if(NOT CMAKE_MATCH_1 IN_LIST ${floor}_sees)
        list(JOIN ${floor}_sees ", " allowed)
        fault(${file} "includes \"${path}\"; ${floor} sees only: ${allowed}")
      endif()
      string(REGEX REPLACE "^lockstep/" "" own "${path}")
      if(NOT EXISTS ${ROOT}/${own})
        fault(${file} "includes \"${path}\", which does not exist")
      endif()
    endforeach()
    if(file MATCHES "\\.(h|cuh)$")
      file(STRINGS ${ROOT}/${file} once REGEX "^#pragma once$")
      if(NOT once)
        fault(${file} "has no #pragma once")
      endif()
    endif()
  endforeach()
endforeach()

lockstep_public_headers(${ROOT} public)
foreach(file ${public})
  read_includes(${file} lines)
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "${include_pattern}" "\\1" path "${line}")
    if(line MATCHES "<" AND NOT path MATCHES "^[a-z_0-9]+$")
      fault(${file} "is public (lockstep.h reaches it) and includes <${path}>")
    endif()
  endforeach()
endforeach()

if(faults)
  message(FATAL_ERROR "Structure:\n${faults}")
endif()
if(checked EQUAL 0)
  message(FATAL_ERROR "Structure: no sources under ${ROOT}")
endif()
list(LENGTH public public_count)
message(STATUS "Structure: ${checked} files keep to their floors, ${public_count} public headers")
