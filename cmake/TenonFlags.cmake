# Compiler flags, in one place.

# tenon_flags(TARGET): what every file of the project is compiled with.
function(tenon_flags target)
  target_compile_features(${target} PRIVATE c_std_17)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -fno-math-errno)
  if(TENON_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  target_compile_definitions(${target} PRIVATE _GNU_SOURCE)
endfunction()

# tenon_simd_objects(OUT SOURCES...): the object libraries of the kernels that are compiled once per instruction set.
# Each file sees TN_ISA_SUFFIX and gives its symbols that suffix. NaN and infinity keep their meaning: no -ffast-math.
function(tenon_simd_objects out)
  set(libraries "")
  if(ARGN)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
      set(levels v2 v3 v4)
    else()
      set(levels base)
    endif()
    foreach(level IN LISTS levels)
      set(library tenon_simd_${level})
      add_library(${library} OBJECT ${ARGN})
      tenon_flags(${library})
      tenon_includes(${library})
      set_target_properties(${library} PROPERTIES POSITION_INDEPENDENT_CODE ON C_VISIBILITY_PRESET hidden)
      target_compile_definitions(${library} PRIVATE TN_ISA_SUFFIX=${level})
      target_compile_options(${library} PRIVATE
        -ffp-contract=fast -fno-trapping-math -fopenmp-simd -Wno-psabi
        $<$<CONFIG:Release>:-O3>
        # clang says so when it keeps a loop scalar that asks for simd; that is no error
        $<$<C_COMPILER_ID:Clang>:-Wno-pass-failed>)
      if(TENON_BUILD_FUZZ) # readers are fuzzed, not kernels, and instrumenting these takes minutes
        target_compile_options(${library} PRIVATE -fno-sanitize=all -O0)
      endif()
      if(NOT level STREQUAL "base")
        target_compile_options(${library} PRIVATE -march=x86-64-${level})
      endif()
      list(APPEND libraries ${library})
    endforeach()
  endif()
  set(${out} "${libraries}" PARENT_SCOPE)
endfunction()
