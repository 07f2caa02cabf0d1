# cmake -DPROGRAM=<autograd_tour> -DEXPECTED=<text> -DSCRATCH=<folder> -P tour_test.cmake
#
# On a GPU the tour prints what it prints on the CPU, but for the device of each tensor.
cmake_minimum_required(VERSION 3.22)
file(MAKE_DIRECTORY ${SCRATCH})
execute_process(COMMAND ${PROGRAM} --device cuda RESULT_VARIABLE code OUTPUT_FILE ${SCRATCH}/output
  ERROR_FILE ${SCRATCH}/errors)
file(READ ${SCRATCH}/output output)
if(NOT code STREQUAL "0")
  file(READ ${SCRATCH}/errors errors)
  message(FATAL_ERROR "the tour ended with ${code}:\n${output}${errors}")
endif()
string(REPLACE ", device='cuda:0'" "" text "${output}")
if(text STREQUAL output)
  message(FATAL_ERROR "no tensor says that it is on cuda:0")
endif()
file(READ ${EXPECTED} expected)
if(NOT text STREQUAL expected)
  file(WRITE ${SCRATCH}/printed "${text}")
  execute_process(COMMAND diff -u ${EXPECTED} ${SCRATCH}/printed OUTPUT_VARIABLE difference)
  message(FATAL_ERROR "The tour prints something else:\n${difference}")
endif()
