# chanas_module(NAME SOURCES a.cpp ... DEPS other modules ... LIBRARIES third-party targets ...)
#   library chanas_<NAME> from the sources of the calling folder.
# chanas_test(NAME SOURCES a_test.cpp ... DEPS modules ... LABELS unit [TIMEOUT s] [RUN_SERIAL])
#   GoogleTest program; one CTest entry per program, labelled by intent.
# chanas_program(NAME SOURCES ... DEPS ... LIBRARIES ...)
#   executable in build/<preset>/bin.

include(CMakeParseArguments)

function(chanas_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LIBRARIES" ${ARGN})
  add_library(chanas_${name} STATIC ${ARG_SOURCES})
  add_library(chanas::${name} ALIAS chanas_${name})
  target_include_directories(chanas_${name} PUBLIC "${PROJECT_SOURCE_DIR}/src")
  list(TRANSFORM ARG_DEPS PREPEND chanas::)
  target_link_libraries(chanas_${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_LIBRARIES} chanas_warnings)
endfunction()

function(chanas_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LIBRARIES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  list(TRANSFORM ARG_DEPS PREPEND chanas::)
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} ${ARG_LIBRARIES} chanas_warnings)
endfunction()

function(chanas_test name)
  cmake_parse_arguments(ARG "RUN_SERIAL" "TIMEOUT" "SOURCES;DEPS;LIBRARIES;LABELS" ${ARGN})
  if(NOT BUILD_TESTING)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  list(TRANSFORM ARG_DEPS PREPEND chanas::)
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} ${ARG_LIBRARIES} chanas_warnings
                                        GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  target_compile_definitions(
    ${name} PRIVATE CHANAS_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                    CHANAS_BIN_DIR="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
                                          SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\] [0-9]+ tests?, listed below.*\\[  PASSED  \\] 0 tests")
  if(ARG_RUN_SERIAL)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

