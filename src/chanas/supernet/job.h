#pragma once
// What chanas-nn and its client say to each other. A job is a JSON text, in a file or on standard
// input ("-"); the answer is one JSON object a line on standard output, told apart by "event":
//   {"event": "progress", ...}                 TrainProgress, or {"share": x}
//   {"event": "accuracy", "index": i, "accuracy": x}
//   {"event": "warning", "text": "..."}         and "note", also for people
//   {"event": "result", ...}                   last line of a job that is done
//   {"event": "error", "code": n, "message": "..."}   last line of one that failed; absl's code
// Standard error carries lines for people and nothing else.

#include "chanas/base/json.h"
#include "chanas/supernet/client.h"

namespace chanas {

// Readers are strict: kInvalidArgument names an unknown key (with the nearest one) or a value of
// the wrong type. A missing key keeps its default.
Json to_json(const DataConfig& config);
Json to_json(const TrainConfig& config);
Json to_json(const EvaluateConfig& config);
Json to_json(const PredictorConfig& config);
Json to_json(const DataInfo& info);
Json to_json(const TrainProgress& progress);
Json to_json(const TrainResult& result);
Json to_json(const PredictorFit& fit);
Json to_json(const SubnetExport& exported);

Status from_json(const Json& json, DataConfig& config);
Status from_json(const Json& json, TrainConfig& config);
Status from_json(const Json& json, EvaluateConfig& config);
Status from_json(const Json& json, PredictorConfig& config);
Status from_json(const Json& json, DataInfo& info);
Status from_json(const Json& json, TrainProgress& progress);
Status from_json(const Json& json, TrainResult& result);
Status from_json(const Json& json, PredictorFit& fit);
Status from_json(const Json& json, SubnetExport& exported);

}  // namespace chanas
