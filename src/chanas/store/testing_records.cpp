#include "chanas/store/testing_records.h"

namespace chanas {

Workload small_workload(int c_in, int c_out) {
  Graph graph;
  const int input =
      graph.add({.kind = OpKind::kInput, .name = "x", .inputs = {}, .shape = {4, 4, c_in}});
  const int conv = graph.add({.kind = OpKind::kConv2d,
                              .name = "conv",
                              .inputs = {input},
                              .shape = {4, 4, c_out},
                              .bias = true,
                              .act = Activation::kRelu});
  return make_workload(graph, {conv});
}

RecordKey small_key() { return record_key(simulated_target(), {.threads = 1, .cold_bytes = 1000}); }

Record small_record(const Workload& workload, const Schedule& schedule, double us,
                    TrialError error) {
  Record record;
  record.workload = workload.fingerprint();
  record.key = small_key();
  record.schedule = schedule;
  record.origin = "random";
  record.time_s = 1700000000;
  record.result.error = error;
  if (error == TrialError::kNone) {
    record.result.latency_us = us;
    record.result.samples_us = {us * 0.99, us, us * 1.03};
    record.result.warm_us = us * 0.8;
    record.result.relative_error = 1e-7;
  } else {
    record.result.message = "made up";
  }
  return record;
}

Status put_small(Store& store, const Workload& workload) {
  CHANAS_RETURN_IF_ERROR(store.put_device(simulated_target()));
  return store.put_workload(workload);
}

}  // namespace chanas
