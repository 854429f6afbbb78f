#pragma once
// Does the device stay as fast as it was? A fixed kernel (the canary) is timed before and after
// every batch of measurements; when it moved, the batch says nothing.

#include <string>

namespace chanas {

class DriftWatch {
 public:
  // More than this between two looks at the canary rejects what was measured in between.
  static constexpr double kRejected = 0.05;
  // More than this against the first look: the device is no longer what it was.
  static constexpr double kAnotherDevice = 0.15;

  // The canary's time before a batch.
  void begin(double canary_us);
  // Its time after the batch: whether the batch counts. Either way the next one begins here.
  bool accept(double canary_us);
  // What accept() found, for people: "slower by 23 %".
  std::string describe() const;

  // Says once, when it first happens, and again when the device is back: "" otherwise. The first
  // look of all is what later ones are compared with.
  std::string news();

 private:
  double first_us_ = 0, before_us_ = 0, change_ = 0;
  bool away_ = false;
};

}  // namespace chanas
