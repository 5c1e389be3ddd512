# oneDNN's C interface: target DNNL::dnnl, DNNL_VERSION. Distributions ship it with and without a CMake package, so
# header and library are looked for directly.
find_path(DNNL_INCLUDE_DIR dnnl.h PATH_SUFFIXES oneapi/dnnl)
find_library(DNNL_LIBRARY NAMES dnnl)

if(DNNL_INCLUDE_DIR)
  set(DNNL_VERSION "")
  foreach(file dnnl_version.h oneapi/dnnl/dnnl_version.h)
    if(EXISTS ${DNNL_INCLUDE_DIR}/${file})
      file(STRINGS ${DNNL_INCLUDE_DIR}/${file} lines REGEX "#define DNNL_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
      if(lines)
        string(REGEX REPLACE "[^;]*#define DNNL_VERSION_[A-Z]+ +([0-9]+)[^;]*" "\\1" numbers "${lines}")
        string(REPLACE ";" "." DNNL_VERSION "${numbers}")
      endif()
    endif()
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(DNNL
  REQUIRED_VARS DNNL_LIBRARY DNNL_INCLUDE_DIR
  VERSION_VAR DNNL_VERSION
  REASON_FAILURE_MESSAGE "Install oneDNN (Debian, Ubuntu: libdnnl-dev), or run scripts/setup.")

if(DNNL_FOUND AND NOT TARGET DNNL::dnnl)
  add_library(DNNL::dnnl UNKNOWN IMPORTED)
  set_target_properties(DNNL::dnnl PROPERTIES
    IMPORTED_LOCATION ${DNNL_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
endif()
mark_as_advanced(DNNL_INCLUDE_DIR DNNL_LIBRARY)
