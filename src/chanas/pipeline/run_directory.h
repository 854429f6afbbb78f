#pragma once
// The folder of a run: resolved config, one JSON file per finished stage, checkpoints, exported
// network, report. A stage file is written last, so it exists only when its stage is complete.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chanas/base/json.h"
#include "chanas/base/status.h"

namespace chanas {

// Result of a finished stage as kept in "<run dir>/stages/<stage>.json".
struct StageRecord {
  std::string inputs;  // fingerprint of everything the stage depended on
  double seconds = 0;  // wall clock, all attempts that led to it
  std::string output;  // JSON text, the stage's own
};

// Holds an exclusive lock on the folder while it lives. Not thread safe.
class RunDirectory {
 public:
  // Creates the folder. kAborted when another process works in it.
  static StatusOr<std::unique_ptr<RunDirectory>> open(const std::string& path);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string file(std::string_view name) const;

  // nullopt when the stage never finished. A damaged stage file counts as not finished: warning.
  std::optional<StageRecord> stage(const std::string& name) const;
  Status put_stage(const std::string& name, const StageRecord& record);
  // A file that may be there.
  void remove(std::string_view name) const;
  // Adds to the seconds of an unfinished stage, so that a resumed stage tells its whole time.
  double spent_before(const std::string& name) const;
  Status add_spent(const std::string& name, double seconds);

 private:
  RunDirectory(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}
  std::string path_;
  int lock_;
};

// Numbers by name that are kept as they come, a line [name, number] each (append_line); what is no
// such line is passed over, and so is a file that is not there.
std::map<std::string, double> read_journal(const std::string& path);

}  // namespace chanas
