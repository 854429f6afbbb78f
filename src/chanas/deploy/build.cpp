#include <fmt/format.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <set>

#include "chanas/base/child_process.h"
#include "chanas/base/file.h"
#include "chanas/base/names.h"
#include "chanas/deploy/library.h"

namespace chanas {
namespace {

constexpr double kCompileTimeout = 120;

// Of model.h; everything else in the library is local to it.
constexpr const char* kPublicFunctions[] = {
    "create", "run",        "destroy",     "image_from_rgb8", "class_name",
    "info",   "error_text", "stage_count", "stage_name",      "set_stage_times"};

// Runs a command in `folder`; its output becomes the message of a failure.
Status run(const std::string& folder, const std::vector<std::string>& command) {
  // The shell only changes the folder and joins the two outputs; arguments go through untouched.
  std::vector<std::string> argv = {"/bin/sh", "-c", "cd \"$0\" && exec \"$@\" 2>&1", folder};
  argv.insert(argv.end(), command.begin(), command.end());
  CHANAS_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::start(argv));
  child.close_input();
  std::string output;
  for (;;) {
    StatusOr<std::string> line = child.read_line(kCompileTimeout);
    if (line.ok()) {
      output += *line + "\n";
    } else if (absl::IsUnavailable(line.status())) {
      break;  // it closed its output
    } else {
      return line.status();
    }
  }
  ChildExit exit = child.wait();
  if (exit.exited && exit.code == 0) return absl::OkStatus();
  if (exit.exited && (exit.code == 127 || exit.code == 126)) {
    return absl::UnavailableError(fmt::format(
        "{} cannot be run; export needs a C compiler and ar: apt-get install gcc binutils",
        command[0]));
  }
  return absl::InternalError(fmt::format("{} failed: {}", join(command, " "), output));
}

}  // namespace

Status build_library(const ExportRequest& request, const std::vector<StageObject>& stages,
                     const std::string& folder) {
  const std::string& symbol = request.symbol;
  std::string source = join_path(folder, "src");
  std::vector<std::string> objects;
  auto compile = [&](const std::string& file, const std::string& object) -> Status {
    std::vector<std::string> command = {"cc",   "-c",  "-O2", "-fPIC", "-fvisibility=hidden",
                                        "-I..", "-I.", file,  "-o",    object};
    if (file.ends_with(".c")) command.insert(command.begin() + 1, "-std=c11");
    return run(source, command);
  };
  for (const std::string& file : {std::string("model.c"), std::string("weights.S")}) {
    std::string object = file.substr(0, file.find('.')) + ".o";
    CHANAS_RETURN_IF_ERROR(compile(file, object));
    objects.push_back(object);
  }
  std::error_code error;
  std::set<std::string> runtime;  // sorted: the archive is the same every time
  for (const auto& entry : std::filesystem::directory_iterator(source, error)) {
    std::string name = entry.path().filename().string();
    if (name.ends_with(".c") && name != "model.c" && name != "selftest.c") runtime.insert(name);
  }
  for (const std::string& file : runtime) {
    std::string object = file.substr(0, file.size() - 2) + ".o";
    CHANAS_RETURN_IF_ERROR(compile(file, object));
    objects.push_back(object);
  }
  std::set<std::string> kernels;
  for (const StageObject& stage : stages) {
    kernels.insert(std::filesystem::path(stage.path).filename().string());
  }
  objects.insert(objects.end(), kernels.begin(), kernels.end());

  // One relocatable object with everything hidden but the public functions: several exported
  // networks can be linked into one program without their runtimes meeting.
  std::vector<std::string> merge = {"ld", "-r", "-o", "all.o"};
  merge.insert(merge.end(), objects.begin(), objects.end());
  CHANAS_RETURN_IF_ERROR(run(source, merge));
  std::vector<std::string> hide = {"objcopy", "all.o"};
  for (const char* name : kPublicFunctions)
    hide.push_back("--keep-global-symbol=" + symbol + "_" + name);
  CHANAS_RETURN_IF_ERROR(run(source, hide));
  CHANAS_RETURN_IF_ERROR(run(source, {"ar", "rcsD", "../lib" + symbol + ".a", "all.o"}));
  CHANAS_RETURN_IF_ERROR(
      run(source, {"cc", "-shared", "-Wl,-soname,lib" + symbol + ".so", "-Wl,-z,noexecstack", "-o",
                   "../lib" + symbol + ".so", "all.o", "-lpthread", "-lm"}));
  CHANAS_RETURN_IF_ERROR(compile("selftest.c", "selftest.o"));
  CHANAS_RETURN_IF_ERROR(compile("reference.S", "reference.o"));
  CHANAS_RETURN_IF_ERROR(run(source, {"cc", "-o", "../selftest", "selftest.o", "reference.o",
                                      "../lib" + symbol + ".a", "-lpthread", "-lm"}));
  for (const auto& entry : std::filesystem::directory_iterator(source, error)) {
    std::string name = entry.path().filename().string();
    // The kernels stay: with src/ the library can be built again by hand.
    if (name.ends_with(".o") && kernels.count(name) == 0)
      std::filesystem::remove(entry.path(), error);
  }
  return absl::OkStatus();
}

}  // namespace chanas
