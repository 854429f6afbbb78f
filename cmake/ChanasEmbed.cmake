# chanas_embed(TARGET target FUNCTION name FILES a b ...)
#   Adds to `target` a generated source that defines
#     std::vector<std::pair<std::string, std::string>> chanas::<name>();   // (file name, contents)
#   so that programs carry the text files they need (spaces, published networks, runtime sources).
#   a.gz is carried as the text a.

function(chanas_embed)
  cmake_parse_arguments(ARG "" "TARGET;FUNCTION" "FILES" ${ARGN})
  set(output "${CMAKE_CURRENT_BINARY_DIR}/${ARG_FUNCTION}.cpp")
  set(paths)
  foreach(file ${ARG_FILES})
    get_filename_component(path "${file}" ABSOLUTE)
    list(APPEND paths "${path}")
  endforeach()
  add_custom_command(
    OUTPUT "${output}"
    COMMAND Python3::Interpreter "${PROJECT_SOURCE_DIR}/cmake/embed.py" "${output}" ${ARG_FUNCTION} ${paths}
    DEPENDS ${paths} "${PROJECT_SOURCE_DIR}/cmake/embed.py"
    COMMENT "Embedding ${ARG_FUNCTION}"
    VERBATIM)
  target_sources(${ARG_TARGET} PRIVATE "${output}")
endfunction()
