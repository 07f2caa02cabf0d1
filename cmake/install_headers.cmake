# Run by `cmake --install`: SOURCE and DESTINATION are set by cmake/install.cmake.
include(${CMAKE_CURRENT_LIST_DIR}/public_headers.cmake)
lockstep_public_headers(${SOURCE} headers)
foreach(header IN LISTS headers)
  get_filename_component(folder ${header} DIRECTORY)
  file(INSTALL ${SOURCE}/${header} DESTINATION ${DESTINATION}/${folder})
endforeach()
