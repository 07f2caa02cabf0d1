cmake_policy(VERSION 3.22)  # `cmake --install` sets none

# lockstep_public_headers(<root> <result>): the public headers are those that lockstep.h reaches
# through includes, and no others. Paths relative to <root>, lockstep.h first.
function(lockstep_public_headers root result)
  set(found lockstep.h)
  set(waiting lockstep.h)
  while(waiting)
    list(POP_FRONT waiting header)
    file(STRINGS ${root}/${header} includes REGEX "^[ \t]*#[ \t]*include[ \t]+\"lockstep/")
    foreach(line IN LISTS includes)
      string(REGEX REPLACE ".*\"lockstep/([^\"]+)\".*" "\\1" next "${line}")
      if(NOT next IN_LIST found AND EXISTS ${root}/${next})
        list(APPEND found ${next})
        list(APPEND waiting ${next})
      endif()
    endforeach()
  endwhile()
  set(${result} ${found} PARENT_SCOPE)
endfunction()
