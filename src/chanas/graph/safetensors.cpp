#include "chanas/graph/safetensors.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "chanas/base/file.h"

namespace chanas {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are stored little-endian");

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr char kMetadataKey[] = "__metadata__";

struct Entry {
  std::string name, dtype;
  std::vector<uint64_t> shape, offsets;
  std::set<std::string> keys;  // seen so far
};

// Reads the header as a stream of events and refuses the first thing that does not belong there; so
// neither deep nesting nor repeated names, which a tree would swallow, come through.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool key(string_t& name) override {
    if (state_ == State::kHeader) {
      if (!names_.insert(name).second) return fail(fmt::format("\"{}\" appears twice", name));
      if (name != kMetadataKey) entries.emplace_back().name = name;
      state_ = name == kMetadataKey ? State::kMetadataStart : State::kTensorStart;
    } else if (state_ == State::kMetadata) {
      if (metadata.contains(name)) return fail(fmt::format("metadata \"{}\" appears twice", name));
      metadata_key_ = name;
      state_ = State::kMetadataValue;
    } else {
      if (!entries.back().keys.insert(name).second)
        return fail(fmt::format("tensor \"{}\" has \"{}\" twice", entries.back().name, name));
      if (name == "dtype") {
        state_ = State::kDtype;
      } else if (name == "shape" || name == "data_offsets") {
        numbers_ = name == "shape" ? &entries.back().shape : &entries.back().offsets;
        state_ = State::kListStart;
      } else {
        return fail(
            fmt::format("tensor \"{}\" has the unknown key \"{}\"; expected dtype, shape and "
                        "data_offsets",
                        entries.back().name, name));
      }
    }
    return true;
  }
  bool string(string_t& value) override {
    if (state_ == State::kMetadataValue) {
      metadata[metadata_key_] = value;
      return enter(State::kMetadata);
    }
    if (state_ != State::kDtype) return unexpected("a string");
    entries.back().dtype = value;
    return enter(State::kTensor);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (state_ != State::kList) return unexpected("a number");
    numbers_->push_back(value);
    return true;
  }
  bool number_integer(number_integer_t value) override {
    return unexpected(fmt::format("the negative number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return unexpected(fmt::format("the number {}, which is no integer of 64 bits", text));
  }
  bool start_object(size_t) override {
    if (state_ == State::kStart) return enter(State::kHeader);
    if (state_ == State::kTensorStart) return enter(State::kTensor);
    if (state_ == State::kMetadataStart) return enter(State::kMetadata);
    return unexpected("an object");
  }
  bool end_object() override {
    if (state_ == State::kTensor && entries.back().keys.size() != 3)
      return fail(fmt::format("tensor \"{}\" lacks one of dtype, shape and data_offsets",
                              entries.back().name));
    return enter(state_ == State::kHeader ? State::kEnd : State::kHeader);
  }
  bool start_array(size_t) override {
    return state_ == State::kListStart ? enter(State::kList) : unexpected("a list");
  }
  bool end_array() override { return enter(State::kTensor); }
  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& problem) override {
    return fail(fmt::format("the header is not JSON: {} (at byte {})", problem.what(), position));
  }

 private:
  enum class State {
    kStart,
    kHeader,
    kMetadataStart,
    kMetadata,
    kMetadataValue,
    kTensorStart,
    kTensor,
    kDtype,
    kListStart,
    kList,
    kEnd
  };

  bool enter(State state) {
    state_ = state;
    return true;
  }
  bool fail(std::string message) {
    error = std::move(message);
    return false;
  }
  bool unexpected(std::string_view found) {
    const bool in_tensor = !entries.empty() && state_ >= State::kTensorStart;
    return fail(
        in_tensor ? fmt::format("tensor \"{}\": found {} in its entry", entries.back().name, found)
                  : fmt::format("found {} in the header; expected tensors", found));
  }

  State state_ = State::kStart;
  std::set<std::string> names_;
  std::string metadata_key_;
  std::vector<uint64_t>* numbers_ = nullptr;
};

Status damaged(std::string message) { return absl::DataLossError(std::move(message)); }

// Bytes that the shape needs; an error when the entry is not one float32 tensor of that size.
Status check_entry(const Entry& entry) {
  if (entry.dtype != "F32")
    return damaged(fmt::format("tensor \"{}\" has type {}; only F32 is supported, convert it first",
                               entry.name, entry.dtype));
  if (entry.offsets.size() != 2 || entry.offsets[0] > entry.offsets[1])
    return damaged(fmt::format("tensor \"{}\": data_offsets are not [begin, end] with begin <= end",
                               entry.name));
  uint64_t bytes = sizeof(float);
  for (uint64_t size : entry.shape)
    if (size > uint64_t{INT64_MAX} || __builtin_mul_overflow(bytes, size, &bytes))
      return damaged(fmt::format("tensor \"{}\": its shape has more bytes than 64 bits can count",
                                 entry.name));
  if (bytes != entry.offsets[1] - entry.offsets[0])
    return damaged(fmt::format("tensor \"{}\" spans {} bytes; its shape needs {}", entry.name,
                               entry.offsets[1] - entry.offsets[0], bytes));
  return absl::OkStatus();
}

}  // namespace

StatusOr<SafetensorsFile> parse_safetensors(std::string_view bytes) {
  if (bytes.size() < kLengthBytes)
    return damaged(
        fmt::format("{} bytes; a safetensors file starts with a length of 8 bytes", bytes.size()));
  uint64_t header_size;
  std::memcpy(&header_size, bytes.data(), kLengthBytes);
  bytes.remove_prefix(kLengthBytes);
  if (header_size > kMaxHeaderBytes)
    return damaged(fmt::format("its header claims {} bytes; at most {} are allowed", header_size,
                               kMaxHeaderBytes));
  if (header_size > bytes.size())
    return damaged(
        fmt::format("its header claims {} bytes, but only {} follow: the file is cut off "
                    "or no safetensors file",
                    header_size, bytes.size()));
  const std::string_view header = bytes.substr(0, header_size);
  const std::string_view data = bytes.substr(header_size);
  if (!header.starts_with('{')) return damaged("its header does not start with '{'");

  HeaderReader reader;
  if (!Json::sax_parse(header.begin(), header.end(), &reader)) return damaged(reader.error);

  auto& entries = reader.entries;
  for (const Entry& entry : entries) CHANAS_RETURN_IF_ERROR(check_entry(entry));
  std::ranges::stable_sort(entries, {}, &Entry::offsets);
  SafetensorsFile file;
  file.metadata = std::move(reader.metadata);
  uint64_t end = 0;
  for (const Entry& entry : entries) {
    const uint64_t begin = entry.offsets[0];
    if (begin != end)
      return damaged(
          fmt::format("tensor \"{}\" starts at byte {}, but the data before it ends at {}: "
                      "{}",
                      entry.name, begin, end, begin < end ? "they overlap" : "a hole"));
    end = entry.offsets[1];
    if (end > data.size())
      return damaged(fmt::format("tensor \"{}\" ends at byte {} of {}: the file is cut off",
                                 entry.name, end, data.size()));
    Tensor tensor{{entry.shape.begin(), entry.shape.end()},
                  std::vector<float>((end - begin) / sizeof(float))};
    if (end > begin) std::memcpy(tensor.data.data(), data.data() + begin, end - begin);
    file.parameters.items.emplace_back(entry.name, std::move(tensor));
  }
  if (end != data.size())
    return damaged(
        fmt::format("{} bytes follow the last tensor; expected none", data.size() - end));
  std::ranges::sort(file.parameters.items, {}, [](const auto& item) { return item.first; });
  return file;
}

StatusOr<std::string> serialize_safetensors(const SafetensorsFile& file) {
  Json header = Json::object();
  if (!file.metadata.empty()) header[kMetadataKey] = file.metadata;
  uint64_t end = 0;
  std::string_view previous;
  for (const auto& [name, tensor] : file.parameters.items) {
    CHANAS_CHECK(previous.data() == nullptr || previous < name)
        << "parameters are not sorted at " << name;
    previous = name;
    if (name == kMetadataKey)
      return absl::InvalidArgumentError("a tensor cannot be named \"__metadata__\"");
    int64_t elements = 1;
    for (int64_t size : tensor.shape) elements *= size;
    CHANAS_CHECK(elements == static_cast<int64_t>(tensor.data.size()))
        << name << " holds " << tensor.data.size() << " values, its shape " << elements;
    const uint64_t begin = end;
    end += tensor.data.size() * sizeof(float);
    header[name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception& problem) {
    return absl::InvalidArgumentError(
        fmt::format("a tensor or metadata name cannot be written: {}", problem.what()));
  }
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');
  if (text.size() > kMaxHeaderBytes)
    return absl::InvalidArgumentError(fmt::format("the header has {} bytes; at most {} are allowed",
                                                  text.size(), kMaxHeaderBytes));

  const uint64_t header_size = text.size();
  std::string bytes(reinterpret_cast<const char*>(&header_size), kLengthBytes);
  bytes.reserve(kLengthBytes + text.size() + end);
  bytes += text;
  for (const auto& [name, tensor] : file.parameters.items)
    bytes.append(reinterpret_cast<const char*>(tensor.data.data()),
                 tensor.data.size() * sizeof(float));
  return bytes;
}

StatusOr<SafetensorsFile> read_safetensors(const std::string& path) {
  CHANAS_ASSIGN_OR_RETURN(const std::string bytes, read_file(path));
  StatusOr<SafetensorsFile> file = parse_safetensors(bytes);
  if (!file.ok()) return annotate(file.status(), path);
  return file;
}

Status write_safetensors(const std::string& path, const SafetensorsFile& file) {
  CHANAS_ASSIGN_OR_RETURN(const std::string bytes, serialize_safetensors(file));
  return write_file_atomic(path, bytes);
}

}  // namespace chanas
