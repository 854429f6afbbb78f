#pragma once
// Does the device stay as fast as it was? A fixed kernel (the canary) is timed before and after
// every batch of measurements. When it moved in between, the batch says nothing; while the device
// is slower than it was, measuring waits.

#include <string>

namespace chanas {

class DriftWatch {
 public:
  // More than this between two looks at the canary rejects what was measured in between. Less says
  // little about the candidates and is common where cores are shared: at 5 % two cores of such a
  // machine measured every other batch again.
  static constexpr double kRejected = 0.1;
  // More than this against the usual time: the device is not what it was.
  static constexpr double kAway = 0.15;
  // A device that is slower is waited for so long, and in all for no more than this share of the
  // time (and kPatience); then the new speed is the usual one.
  static constexpr double kPatience = 10;  // seconds
  static constexpr double kWaitShare = 0.25;

  // The canary's time before a batch, at `now` (seconds of a clock that does not jump). The answer
  // is how many seconds to wait before looking again; 0: measure.
  double begin(double canary_us, double now);
  // Its time after the batch: whether the batch counts.
  bool accept(double canary_us);
  // What accept() found, for people: "slower by 23 %".
  std::string describe() const;

  // Says once that the usual speed is another one now, "" otherwise. What follows within a minute
  // of the last news is not said.
  std::string news(double now);

 private:
  double before_us_ = 0, change_ = 0;
  double usual_us_ = 0;                 // 0: none yet
  double began_ = 0, waited_ = 0;       // since when it watches, seconds waited in all
  double away_since_ = -1, moved_ = 0;  // change that is not said yet
  double said_ = -1;
};

}  // namespace chanas
