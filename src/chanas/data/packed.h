#pragma once
// A loaded data set as one file, so that the next process maps it instead of decoding every image
// again: magic, a JSON header (labels, classes, parts), and the pixels from a page boundary on.

#include <string>

#include "chanas/data/dataset.h"

namespace chanas {

// Written beside and renamed. kResourceExhausted (disk full) and kInternal as write_file_atomic's.
Status write_packed(const Dataset& dataset, const std::string& key, const std::string& path);

// Pixels stay in the file, of which the system keeps in memory what is used. kNotFound: there is no
// such file, or it is of another key. kDataLoss: it is damaged.
StatusOr<Dataset> read_packed(const std::string& path, const std::string& key);

}  // namespace chanas
