# Target chanas::torch: LibTorch for the CPU.
#
# Own imported targets instead of find_package(Torch), because the package of a CUDA build stops
# where no CUDA toolkit is installed. Only libtorch_cpu and libc10 are named: libtorch itself would
# draw in two gigabytes of CUDA libraries.

include("${CMAKE_CURRENT_LIST_DIR}/ChanasDeps.cmake")

function(_chanas_add_torch)
  chanas_dependency_prefix(prefix torch)
  set(torch "${prefix}/torch")
  foreach(file lib/libtorch_cpu.so lib/libc10.so include/ATen/ATen.h
               include/torch/csrc/api/include/torch/torch.h)
    if(NOT EXISTS "${torch}/${file}")
      message(FATAL_ERROR
        "LibTorch is not complete: ${torch}/${file} is missing. Run `make setup`, or set "
        "CHANAS_TORCH_PREFIX to the folder that holds torch/ of an installed PyTorch, or use the "
        "preset `core`, which needs none.")
    endif()
  endforeach()

  # A full PyTorch brings headers of its own fmt and protobuf, which would hide those of the
  # libraries that we link to. The bootstrap leaves them out; elsewhere a folder of links does.
  set(include "${torch}/include")
  if(EXISTS "${include}/fmt" OR EXISTS "${include}/google")
    file(GLOB entries RELATIVE "${include}" "${include}/*")
    list(REMOVE_ITEM entries fmt google pybind11)
    set(links "${CMAKE_BINARY_DIR}/torch-include")
    file(REMOVE_RECURSE "${links}")
    file(MAKE_DIRECTORY "${links}")
    foreach(entry IN LISTS entries)
      file(CREATE_LINK "${include}/${entry}" "${links}/${entry}" SYMBOLIC)
    endforeach()
    set(include "${links}")
  endif()

  add_library(chanas_torch_c10 SHARED IMPORTED GLOBAL)
  set_target_properties(chanas_torch_c10 PROPERTIES IMPORTED_LOCATION "${torch}/lib/libc10.so")
  add_library(chanas_torch_cpu SHARED IMPORTED GLOBAL)
  set_target_properties(chanas_torch_cpu PROPERTIES
    IMPORTED_LOCATION "${torch}/lib/libtorch_cpu.so"
    IMPORTED_LINK_DEPENDENT_LIBRARIES chanas_torch_c10)

  add_library(chanas_torch INTERFACE)
  add_library(chanas::torch ALIAS chanas_torch)
  target_include_directories(chanas_torch SYSTEM INTERFACE
    "${include}" "${include}/torch/csrc/api/include")
  target_compile_features(chanas_torch INTERFACE cxx_std_20)
  target_compile_definitions(chanas_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
  target_link_libraries(chanas_torch INTERFACE chanas_torch_cpu chanas_torch_c10 ${CMAKE_DL_LIBS})
  # The run path is given here too, because CMake removes its own when a program is installed.
  target_link_options(chanas_torch INTERFACE
    "LINKER:--allow-shlib-undefined" "LINKER:-rpath,${torch}/lib")
  message(STATUS "LibTorch: ${torch}")
endfunction()

_chanas_add_torch()
