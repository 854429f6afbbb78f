# Target chanas::halide: the Halide compiler as a library.
#
# Own imported target, because the wheel's CMake package looks for LLVM and the Python bindings,
# while headers and libHalide.so (LLVM inside) are all that JIT and object output take.

include("${CMAKE_CURRENT_LIST_DIR}/ChanasDeps.cmake")

function(_chanas_add_halide)
  chanas_dependency_prefix(prefix halide)
  find_library(library NAMES libHalide.so PATHS "${prefix}/lib" "${prefix}/lib64"
               NO_DEFAULT_PATH NO_CACHE)
  if(NOT library OR NOT EXISTS "${prefix}/include/Halide.h")
    message(FATAL_ERROR
      "Halide is not complete: ${prefix} lacks include/Halide.h or lib/libHalide.so. Run "
      "`make setup`, or set CHANAS_HALIDE_PREFIX to an unpacked Halide release, or use the preset "
      "`core`, which needs none.")
  endif()
  get_filename_component(folder "${library}" DIRECTORY)

  add_library(chanas_halide SHARED IMPORTED GLOBAL)
  add_library(chanas::halide ALIAS chanas_halide)
  set_target_properties(chanas_halide PROPERTIES IMPORTED_LOCATION "${library}")
  target_include_directories(chanas_halide SYSTEM INTERFACE "${prefix}/include")
  target_compile_features(chanas_halide INTERFACE cxx_std_17)
  target_link_libraries(chanas_halide INTERFACE ${CMAKE_DL_LIBS})
  # The run path is given here too, because CMake removes its own when a program is installed.
  target_link_options(chanas_halide INTERFACE "LINKER:-rpath,${folder}")
  message(STATUS "Halide: ${prefix}")
endfunction()

_chanas_add_halide()
