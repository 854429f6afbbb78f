#pragma once
// Progress of long work with time left: one rewritten line on a terminal, a plain line every few
// seconds elsewhere.

#include <chrono>
#include <limits>
#include <string>

namespace chanas {

// "1 h 02 min", "3 min 20 s", "12 s".
std::string format_duration(double seconds);

// Not thread safe. Example:
//   Progress progress("tune", tasks.size());
//   progress.update(done, "best 34.1 us");
class Progress {
 public:
  // `total` in the unit of update(); <= 0: unknown, no estimate.
  Progress(std::string title, double total);
  ~Progress();  // ends the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` in [0, total]; `detail` is shown behind the estimate. Cheap: prints at most 5 times a
  // second on a terminal and every 5 s elsewhere. Work that was done before this process started
  // (a resume) is told by `start_at`, so that the estimate counts only this run's pace.
  void update(double done, const std::string& detail = "");
  void start_at(double done);
  // The work ends after so many seconds from now, done or not: the time left is never more, and
  // the line shows a percentage, of the work or of the time, whichever is further.
  void ends_within(double seconds);

 private:
  void print(double done, const std::string& detail, bool last);

  std::string title_;
  double total_;
  double first_ = 0;
  double limit_s_ = std::numeric_limits<double>::infinity();
  double last_done_ = 0;
  std::string last_detail_;
  bool terminal_;
  bool printed_ = false;
  std::chrono::steady_clock::time_point start_, last_print_;
};

}  // namespace chanas
