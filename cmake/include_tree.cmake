# "lockstep/engine/tensor/tensor.h" resolves in the build tree as it does after installation:
# <build>/include/lockstep/ holds one link per folder.
set(LOCKSTEP_INCLUDE_ROOT ${PROJECT_BINARY_DIR}/include)
file(MAKE_DIRECTORY ${LOCKSTEP_INCLUDE_ROOT}/lockstep)
foreach(folder engine nn optim data distributed launch lockstep.h)
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${folder} ${LOCKSTEP_INCLUDE_ROOT}/lockstep/${folder} SYMBOLIC)
endforeach()
