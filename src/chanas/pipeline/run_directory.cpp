#include "chanas/pipeline/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "chanas/base/file.h"
#include "chanas/base/log.h"

namespace chanas {

StatusOr<std::unique_ptr<RunDirectory>> RunDirectory::open(const std::string& path) {
  CHANAS_RETURN_IF_ERROR(make_folder(join_path(path, "stages")));
  std::string lock_path = join_path(path, ".lock");
  int lock = ::open(lock_path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
  if (lock < 0) {
    return absl::InvalidArgumentError(
        fmt::format("run directory {}: cannot be written: {}", path, std::strerror(errno)));
  }
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    ::close(lock);
    return absl::AbortedError(fmt::format(
        "run directory {} is in use by another chanas; wait for it or choose another --run-dir",
        path));
  }
  return std::unique_ptr<RunDirectory>(new RunDirectory(path, lock));
}

RunDirectory::~RunDirectory() { ::close(lock_); }

std::string RunDirectory::file(std::string_view name) const { return join_path(path_, name); }

void RunDirectory::remove(std::string_view name) const { ::unlink(file(name).c_str()); }

std::optional<StageRecord> RunDirectory::stage(const std::string& name) const {
  std::string path = file("stages/" + name + ".json");
  if (!file_exists(path)) return std::nullopt;
  StatusOr<Json> json = read_json(path);
  if (json.ok() && json->is_object() && json->contains("inputs") && json->contains("output") &&
      (*json)["inputs"].is_string()) {
    return StageRecord{(*json)["inputs"].get<std::string>(), json->value("seconds", 0.0),
                       (*json)["output"].dump()};
  }
  log_warning("{} is damaged{}; stage {} is done again", path,
              json.ok() ? "" : fmt::format(" ({})", json.status().message()), name);
  return std::nullopt;
}

Status RunDirectory::put_stage(const std::string& name, const StageRecord& record) {
  Json json;
  json["inputs"] = record.inputs;
  json["seconds"] = record.seconds;
  CHANAS_ASSIGN_OR_RETURN(json["output"], parse_json(record.output));
  CHANAS_RETURN_IF_ERROR(write_json(file("stages/" + name + ".json"), json));
  remove("stages/" + name + ".spent");
  return absl::OkStatus();
}

double RunDirectory::spent_before(const std::string& name) const {
  StatusOr<std::string> text = read_file(file("stages/" + name + ".spent"));
  return text.ok() ? std::strtod(text->c_str(), nullptr) : 0;
}

Status RunDirectory::add_spent(const std::string& name, double seconds) {
  return write_file_atomic(file("stages/" + name + ".spent"),
                           fmt::format("{:.3f}\n", spent_before(name) + seconds));
}

std::map<std::string, double> read_journal(const std::string& path) {
  std::map<std::string, double> known;
  const StatusOr<std::string> text = read_file(path);
  if (!text.ok()) return known;
  for (size_t at = 0, end; (end = text->find('\n', at)) != std::string::npos; at = end + 1) {
    const StatusOr<Json> row = parse_json(std::string_view(*text).substr(at, end - at));
    if (row.ok() && row->is_array() && row->size() == 2 && (*row)[0].is_string() &&
        (*row)[1].is_number())
      known[(*row)[0]] = (*row)[1];
  }
  return known;
}

}  // namespace chanas
