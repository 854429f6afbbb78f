#pragma once
// How open_collective reaches the libraries that are loaded when they are needed. Internal.

#include "chanas/supernet/collective.h"

namespace chanas {

// collective_mpi.cpp, in a shared library beside the program. Null: `error` says why.
// `stopped` tells whether the process was asked to stop.
constexpr const char* kMpiPlugin = "chanas-mpi.so";
constexpr const char* kOpenMpiFunction = "chanas_open_mpi";
using OpenMpiFunction = Collective*(bool (*stopped)(), std::string* error);

// NCCL, loaded by name (`library`; empty: libnccl.so.2). gpu: index of the CUDA device; -1: tensors
// stay on the CPU, which only a stand-in for NCCL can read.
StatusOr<std::unique_ptr<Collective>> open_nccl(const Launch& launch, int gpu,
                                                const std::string& library = "");

}  // namespace chanas
