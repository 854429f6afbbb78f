#pragma once
// safetensors files: 8-byte little-endian length, JSON header, tensors. Own reader that trusts
// nothing: header of at most 100 MB, no name twice, every integer in range, shapes that match their
// bytes, offsets that tile the data without hole or overlap, float32 only.

#include <map>
#include <string>
#include <string_view>

#include "chanas/graph/graph.h"

namespace chanas {

struct SafetensorsFile {
  Parameters parameters;
  std::map<std::string, std::string> metadata;
};

// kDataLoss tells the tensor and what is wrong with it.
StatusOr<SafetensorsFile> parse_safetensors(std::string_view bytes);
// Tensors in name order without gaps, the data section 8-byte aligned: equal contents give equal
// bytes. kInvalidArgument: a name that is not UTF-8 or is "__metadata__".
StatusOr<std::string> serialize_safetensors(const SafetensorsFile& file);

// kNotFound, or kDataLoss naming the file and what is wrong with it.
StatusOr<SafetensorsFile> read_safetensors(const std::string& path);
// Atomic. Errors of serialize_safetensors and of write_file_atomic; the old file is then untouched.
Status write_safetensors(const std::string& path, const SafetensorsFile& file);

}  // namespace chanas
