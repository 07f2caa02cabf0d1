# lockstep_add_isa_sources(<file.cc>...): compiles each file once per instruction set into liblockstep.
#
# Inside such a file everything lives in `namespace lockstep::cpu::LOCKSTEP_ISA` (a macro: baseline,
# avx2 or avx512; see isa.h for the file's pattern and the dispatch). The per-set variants are
# generated one-line wrappers. They are added to the library last: where an inline function of a
# header is emitted by several objects the linker keeps the first, which must be the one built
# without AVX.
function(lockstep_add_isa_sources)
  # Set in here because the function is called from several folders, which do not see each other's
  # variables.
  set(flags_baseline)
  set(flags_avx2 -march=x86-64-v3)
  set(flags_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
  set(variants baseline)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    list(APPEND variants avx2 avx512)
  endif()
  foreach(source IN LISTS ARGN)
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} NORMALIZE)
    cmake_path(RELATIVE_PATH source BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE relative)
    cmake_path(GET source STEM stem)
    cmake_path(REMOVE_FILENAME relative OUTPUT_VARIABLE folder)
    foreach(isa IN LISTS variants)
      set(wrapper ${PROJECT_BINARY_DIR}/isa/${folder}${stem}.${isa}.cc)
      file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"lockstep/@relative@\"\n" @ONLY)
      # No errno and no trap from math functions: neither changes a value, both block vectorising.
      set_source_files_properties(${wrapper} TARGET_DIRECTORY lockstep PROPERTIES
        COMPILE_DEFINITIONS "LOCKSTEP_ISA=${isa}"
        COMPILE_OPTIONS "-fno-math-errno;-fno-trapping-math;${flags_${isa}}")
      if(isa STREQUAL baseline)
        target_sources(lockstep PRIVATE ${wrapper})
      else()
        cmake_language(EVAL CODE "
          cmake_language(DEFER DIRECTORY [[${PROJECT_SOURCE_DIR}]]
                         CALL target_sources lockstep PRIVATE [[${wrapper}]])")
      endif()
    endforeach()
  endforeach()
endfunction()
