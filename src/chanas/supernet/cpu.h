#pragma once
// How a program that trains uses the processor.

namespace chanas {

// Once, at the program's start. Nothing but speed depends on it.
//   - Memory that a tensor gives back stays with the process for the next one; given back to the
//     system, each page would have to be cleared and mapped anew, which was 15 % of a training's
//     samples under perf.
//   - MKL, which LibTorch brings, takes its AVX-512 kernels on every processor that has AVX-512.
//     By itself it does so on Intel's alone; on a Zen 5 core a training of space cifar-medium is
//     then 1.3x slower.
void prepare_cpu();

}  // namespace chanas
