# cmake -DPROGRAM=<autograd_tour> -DEXPECTED=<text> -DSCRATCH=<folder> -P autograd_tour_test.cmake
#
# The tour prints the expected text, with --pictures a remark more, and draws the graph where
# Graphviz is installed.
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

file(REMOVE_RECURSE ${SCRATCH})
file(MAKE_DIRECTORY ${SCRATCH})
run(output 0 ${PROGRAM})
expect_text("${output}")

# The picture, and what is said of it.
set(svg ${SCRATCH}/pictures/grad_comp_graph.svg)
set(source ${SCRATCH}/pictures/grad_comp_graph.dot)
run(output 0 ${PROGRAM} --pictures ${SCRATCH}/pictures)
find_program(DOT dot)
if(DOT)
  set(remark "# drawn to ${svg}\n")
  file(READ ${svg} drawn)
  foreach(part "<svg" PowBackward0 MulBackward0)
    if(NOT drawn MATCHES "${part}")
      message(FATAL_ERROR "${svg} has no ${part}")
    endif()
  endforeach()
else()
  set(remark "# not drawn: dot (Graphviz): No such file or directory; see ${source}\n")
endif()
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

# Without dot the tour goes on.
run(output 0 ${CMAKE_COMMAND} -E env PATH=${SCRATCH} ${PROGRAM} --pictures ${SCRATCH}/pictures)
string(REPLACE "# not drawn: dot (Graphviz): No such file or directory; see ${source}\n" ""
  output "${output}")
expect_text("${output}")

run(output 2 ${PROGRAM} --nonsense 1)
run(output 2 ${PROGRAM} --device)
