#pragma once
// What the program knows about good schedules before anything was measured on a device: tuning
// records of the paper's space from other machines, embedded (data/). They are lessons, never rows
// of a table: a search starts near what was good elsewhere, and its own measurements decide.

#include <span>
#include <string>
#include <vector>

#include "chanas/tune/tuner.h"

namespace chanas {

// Lessons for these tasks on a device, of their operator kinds, from the machine of its
// architecture with as wide vectors whose near caches are most like its own, for each number of
// threads; those with as many threads first. None for other devices, simulated ones, and where the
// records are of other schedules than this program makes.
std::vector<Lesson> pretraining_lessons(const Target& target, int threads,
                                        std::span<const TuningTask> tasks);

// What the option "learn" stands for: "shipped" (pretraining_lessons), "none", or a store's file,
// whose records of any shape and device count besides the shipped ones. kNotFound, kDataLoss or
// kInvalidArgument as Store::open, for a file that is none.
StatusOr<std::vector<Lesson>> lessons_of(const std::string& learn, const Target& target,
                                         int threads, std::span<const TuningTask> tasks);

}  // namespace chanas
