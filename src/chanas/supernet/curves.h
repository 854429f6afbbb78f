#pragma once
// Curves of a training for other programs: history.csv and a TensorBoard event file
// (`tensorboard --logdir <folder>`), both in the training's folder.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chanas/supernet/client.h"

namespace chanas {

// Names and values of a point, in the order of the columns: step first. Values that were not taken
// are left out of the event file and empty in the CSV file.
std::vector<std::pair<std::string_view, double>> curve_values(const TrainProgress& point);

class Curves {
 public:
  // Starts both files anew with the points so far, so that they hold each step once, whatever was
  // killed; an older event file goes. Errors of write_file_atomic.
  static StatusOr<Curves> start(const std::string& folder,
                                const std::vector<TrainProgress>& history);
  Status add(const TrainProgress& point);

 private:
  Curves(std::string csv, std::string events) : csv_(std::move(csv)), events_(std::move(events)) {}
  std::string csv_, events_;
};

// --- The event file's format, open to tests ---

// CRC-32C (Castagnoli).
uint32_t crc32c(std::string_view bytes);
// One TFRecord: length, its masked CRC, bytes, their masked CRC.
std::string tf_record(std::string_view bytes);
// An Event message of scalars at a step.
std::string scalar_event(double wall_time, int64_t step,
                         const std::vector<std::pair<std::string_view, double>>& values);

}  // namespace chanas
