#pragma once
// Measurements of whole schedule spaces in one file, so that searches can be compared without a
// device: a latency table with every record ("chanas lut export --all", raw samples left out),
// compressed with gzip.

#include <string>
#include <vector>

#include "chanas/tune/tuner.h"

namespace chanas {

// One lesson per workload; its space is cut down to the choices that occur in the records.
// kNotFound, kDataLoss (not gzip, or cut short), kInvalidArgument (not a latency table),
// kFailedPrecondition (of other schedules than this program makes: measure again).
StatusOr<std::vector<Lesson>> read_recording(const std::string& path);
// One record per point: kUndisturbed of the times of those of its measurements that did not fail,
// so that a disturbed moment makes no point good or bad; a failure where all of them failed. In the
// order in which the points first occur; samples, messages and dates are left out.
std::vector<Record> merge_passes(const std::vector<Record>& records);
// Every point that the store holds under the key, its measurements merged.
Status write_recording(const std::string& path, Store& store, const RecordKey& key);

// The legal points of a space in the order of its choices.
std::vector<Schedule> legal_points(const ScheduleSpace& space);
// True when every legal point was measured, so that the best of the space is known.
bool is_exhaustive(const Lesson& lesson);
// Answers a search from what was recorded; a candidate that was not fails as illegal.
std::vector<MeasureResult> replay(const Lesson& lesson, std::span<const Candidate> candidates);

// The space with choices left out until at most `limit` legal points remain: from the longest
// lists first, never that of the default schedule.
ScheduleSpace cut_down(const ScheduleSpace& space, size_t limit);

}  // namespace chanas
