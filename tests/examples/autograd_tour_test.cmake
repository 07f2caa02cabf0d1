# cmake -DPROGRAM=<autograd_tour> -DPART=output|drawing -DEXPECTED=<text> -DSCRATCH=<folder>
#   -P autograd_tour_test.cmake
#
# output: the tour prints the expected text, with --pictures and no Graphviz a remark more. drawing:
# with Graphviz it draws the graph.
cmake_minimum_required(VERSION 3.22)

function(run result status)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_FILE ${SCRATCH}/output
    ERROR_FILE ${SCRATCH}/errors)
  if(NOT code STREQUAL status)
    file(READ ${SCRATCH}/output output)
    file(READ ${SCRATCH}/errors errors)
    message(FATAL_ERROR "${ARGN}: ended with ${code}, not ${status}:\n${output}${errors}")
  endif()
  file(READ ${SCRATCH}/output output)
  set(${result} "${output}" PARENT_SCOPE)
endfunction()

function(expect_text output)
  file(READ ${EXPECTED} expected)
  if(NOT output STREQUAL expected)
    file(WRITE ${SCRATCH}/printed "${output}")
    execute_process(COMMAND diff -u ${EXPECTED} ${SCRATCH}/printed OUTPUT_VARIABLE difference)
    message(FATAL_ERROR "The tour prints something else:\n${difference}")
  endif()
endfunction()

# With --pictures and `dot` found in the folders `path`, the tour prints `remark` besides, and the
# picture's source is what it prints.
function(expect_picture path remark)
  run(output 0 ${CMAKE_COMMAND} -E env "PATH=${path}" ${PROGRAM} --pictures ${SCRATCH}/pictures)
  string(FIND "${output}" "${remark}" found)
  if(found EQUAL -1)
    message(FATAL_ERROR "--pictures does not print \"${remark}\":\n${output}")
  endif()
  string(REPLACE "${remark}" "" output "${output}")
  expect_text("${output}")
  file(READ ${source} dot)
  string(FIND "${output}" "${dot}" found)
  if(found EQUAL -1 OR NOT dot MATCHES "digraph")
    message(FATAL_ERROR "${source} is not what the tour prints")
  endif()
endfunction()

file(REMOVE_RECURSE ${SCRATCH})
file(MAKE_DIRECTORY ${SCRATCH})
set(svg ${SCRATCH}/pictures/grad_comp_graph.svg)
set(source ${SCRATCH}/pictures/grad_comp_graph.dot)

if(PART STREQUAL "drawing")
  find_program(DOT dot)
  if(NOT DOT)
    message("SKIPPED: no dot here; Debian has it in graphviz")
    return()
  endif()
  expect_picture("$ENV{PATH}" "# drawn to ${svg}\n")
  file(READ ${svg} drawn)
  foreach(part "<svg" PowBackward0 MulBackward0)
    if(NOT drawn MATCHES "${part}")
      message(FATAL_ERROR "${svg} has no ${part}")
    endif()
  endforeach()
  return()
endif()

run(output 0 ${PROGRAM})
expect_text("${output}")
expect_picture(${SCRATCH} "# not drawn: dot (Graphviz): No such file or directory; see ${source}\n")
run(output 2 ${PROGRAM} --nonsense 1)
run(output 2 ${PROGRAM} --device)
