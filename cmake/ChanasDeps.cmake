# chanas_dependency_prefix(OUT name)
#   Folder of a dependency that scripts/bootstrap sets up (torch, halide) or of an existing one.
#   In this order: the cache variable CHANAS_<NAME>_PREFIX, the environment variable of that name,
#   the bootstrap's cache. An empty cache variable is asked anew at every configure, so that a
#   changed environment or pin is followed without a fresh build folder.
# chanas_test_python(OUT)
#   The Python that has ONNX Runtime, or an empty string: tests that need it are then skipped.

set(_chanas_wheels "${CMAKE_CURRENT_LIST_DIR}/../deps/wheels.txt")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${_chanas_wheels}")

set(CHANAS_TORCH_PREFIX "" CACHE PATH
    "Folder that holds torch/include and torch/lib; empty: as scripts/bootstrap")
set(CHANAS_HALIDE_PREFIX "" CACHE PATH
    "Folder that holds Halide's include and lib; empty: as scripts/bootstrap")
set(CHANAS_TEST_PYTHON "" CACHE FILEPATH
    "Python with numpy and onnxruntime for tests; empty: as scripts/bootstrap --test")

# The same rules as in scripts/bootstrap: <cache folder>/<wheel>-<pinned version>.
function(_chanas_cached_folder out wheel)
  if(NOT "$ENV{CHANAS_DEPS}" STREQUAL "")
    set(cache "$ENV{CHANAS_DEPS}")
  elseif(NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
    set(cache "$ENV{XDG_CACHE_HOME}/chanas")
  else()
    set(cache "$ENV{HOME}/.cache/chanas")
  endif()
  get_filename_component(cache "${cache}" ABSOLUTE BASE_DIR "${CMAKE_SOURCE_DIR}")
  file(STRINGS "${_chanas_wheels}" pin REGEX "^${wheel}==")
  if(NOT pin MATCHES "^${wheel}==([^ \\]+)")
    message(FATAL_ERROR "deps/wheels.txt has no line '${wheel}==VERSION'")
  endif()
  set(${out} "${cache}/${wheel}-${CMAKE_MATCH_1}" PARENT_SCOPE)
endfunction()

function(chanas_dependency_prefix out name)
  string(TOUPPER "CHANAS_${name}_PREFIX" variable)
  if(NOT "${${variable}}" STREQUAL "")
    set(prefix "${${variable}}")
  elseif(NOT "$ENV{${variable}}" STREQUAL "")
    set(prefix "$ENV{${variable}}")
  else()
    _chanas_cached_folder(prefix ${name})
  endif()
  get_filename_component(prefix "${prefix}" ABSOLUTE BASE_DIR "${CMAKE_SOURCE_DIR}")
  set(${out} "${prefix}" PARENT_SCOPE)
endfunction()

function(chanas_test_python out)
  set(python "${CHANAS_TEST_PYTHON}")
  if("${python}" STREQUAL "")
    _chanas_cached_folder(prefix onnxruntime)
    set(python "${prefix}/bin/python")
    if(NOT EXISTS "${python}")
      set(python "")
    endif()
  endif()
  set(${out} "${python}" PARENT_SCOPE)
endfunction()
