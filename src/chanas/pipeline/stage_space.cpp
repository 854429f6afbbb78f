#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "chanas/base/log.h"
#include "chanas/pipeline/stages.h"

namespace chanas {

Status run_space_stage(StageContext& context, Json& output) {
  CHANAS_ASSIGN_OR_RETURN(ArchSpace space, load_space(context.config.space));
  CHANAS_ASSIGN_OR_RETURN(DataInfo data, inspect_data(space, context.data()));
  space.classes = static_cast<int>(data.classes.size());
  Network small = to_network(space, smallest(space)), large = to_network(space, largest(space));
  output["space"] = space_fingerprint(space);
  output["classes"] = data.classes;
  output["images"] = {{"train", data.train},
                      {"gap", data.gap},
                      {"ranking", data.ranking},
                      {"test", data.test},
                      {"damaged", data.damaged}};
  output["data"] = data.fingerprint;
  output["macs"] = {macs(small), macs(large)};
  log_info("  {}: {} sub-spaces of 10^{:.1f} networks, {:.2f} to {:.2f}M multiply-adds", space.name,
           space.cells().size(), log10_size(space), static_cast<double>(macs(small)) / 1e6,
           static_cast<double>(macs(large)) / 1e6);
  log_info("  {}: {} classes; {} training, {} gap, {} ranking and {} test images",
           context.config.data, data.classes.size(), data.train, data.gap, data.ranking, data.test);
  return absl::OkStatus();
}

}  // namespace chanas
