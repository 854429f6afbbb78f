#include "chanas/base/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace chanas {

Status for_each(size_t jobs, size_t workers,
                const std::function<Status(size_t job, size_t worker)>& work) {
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::vector<Status> statuses(jobs);
  const auto serve = [&](size_t worker) {
    for (size_t job; !failed && (job = next++) < jobs;) {
      statuses[job] = work(job, worker);
      if (!statuses[job].ok()) failed = true;
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(jobs, workers); ++i) threads.emplace_back(serve, i);
  serve(0);
  for (std::thread& thread : threads) thread.join();
  for (const Status& status : statuses) CHANAS_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

}  // namespace chanas
