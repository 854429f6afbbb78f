#include "chanas/arch/document.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "chanas/base/names.h"

namespace chanas {
namespace {

constexpr int kMaxListLength = 256;

std::string child(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

std::string child(const std::string& path, size_t index) {
  return fmt::format("{}[{}]", path, index);
}

// Fills `lines` on the way. False at a date or time, whose place is then left in `bad`.
bool convert(const toml::node& node, const std::string& path, std::map<std::string, int>& lines,
             Json& json, std::string& bad) {
  lines[path] = static_cast<int>(node.source().begin.line);
  if (const toml::table* table = node.as_table()) {
    json = Json::object();
    for (const auto& [key, value] : *table) {
      if (!convert(value, child(path, key.str()), lines, json[std::string(key.str())], bad)) {
        return false;
      }
    }
  } else if (const toml::array* array = node.as_array()) {
    json = Json::array();
    for (const toml::node& value : *array) {
      json.push_back(nullptr);
      if (!convert(value, child(path, json.size() - 1), lines, json.back(), bad)) return false;
    }
  } else if (const auto* text = node.as_string()) {
    json = text->get();
  } else if (const auto* integer = node.as_integer()) {
    json = integer->get();
  } else if (const auto* real = node.as_floating_point()) {
    json = real->get();
  } else if (const auto* boolean = node.as_boolean()) {
    json = boolean->get();
  } else {
    bad = path;
    return false;
  }
  return true;
}

std::string_view kind_of(const Json& value) {
  if (value.is_object()) return "a table";
  if (value.is_array()) return "an array";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number_float()) return "a real number";
  if (value.is_number()) return "a whole number";
  return "nothing";
}

}  // namespace

StatusOr<Document> Document::from_toml(std::string_view text, std::string_view file_name) {
  Document document;
  document.file_name_ = file_name;
  auto root = std::make_shared<Json>();
  try {
    toml::table table = toml::parse(text, file_name);
    std::string bad;
    if (!convert(table, "", document.lines_, *root, bad)) {
      return absl::InvalidArgumentError(fmt::format(
          "{}{}: found a date or time, expected a number, a string, a boolean, an array "
          "or a table",
          document.place(bad), bad));
    }
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(fmt::format("{}:{}: {}", file_name, error.source().begin.line,
                                                  std::string(error.description())));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(fmt::format("{}: {}", file_name, error.what()));
  }
  document.root_ = std::move(root);
  return document;
}

Document Document::from_json(const Json& json) {
  Document document;
  document.root_ = std::make_shared<Json>(json);
  return document;
}

std::string Document::place(const std::string& path) const {
  if (file_name_.empty() && lines_.empty()) return "";
  auto line = lines_.find(path);
  if (path.empty() || line == lines_.end()) return fmt::format("{}: ", file_name_);
  return fmt::format("{}:{}: ", file_name_, line->second);
}

Status Document::annotate(const Status& status) const {
  return file_name_.empty() ? status : chanas::annotate(status, file_name_);
}

std::string Document::stem() const {
  std::string name = file_name_.substr(file_name_.rfind('/') + 1);
  constexpr std::string_view kSuffix = ".toml";
  if (name.size() > kSuffix.size() && name.ends_with(kSuffix)) {
    name.resize(name.size() - kSuffix.size());
  }
  for (char& c : name) {
    if (!validate_name({&c, 1}).ok()) c = '-';
  }
  return name.substr(0, 200);
}

// One per document: the first error, and every table that was opened (for unknown keys).
struct Fields::Shared {
  const Document* document;
  Status status;   // the first error but a missing key
  Status missing;  // the first missing key
  std::vector<std::shared_ptr<Table>> tables;
};

struct Fields::Table {
  const Json* object;  // null: absent
  std::string path;
  std::set<std::string, std::less<>> known;
};

Fields::Fields(const Document& document)
    : Fields(std::make_shared<Shared>(Shared{&document, {}, {}, {}}), &document.root(), "") {}

Fields::Fields(std::shared_ptr<Shared> shared, const Json* object, std::string path)
    : shared_(std::move(shared)),
      table_(std::make_shared<Table>(Table{object, std::move(path), {}})) {
  shared_->tables.push_back(table_);
  if (object && !object->is_object()) {
    wrong_type(table_->path, "a table", *object);
    table_->object = nullptr;
  }
}

std::string Fields::path_of(std::string_view key) const {
  return key.empty() ? table_->path : child(table_->path, key);
}

void Fields::fail_at(const std::string& path, std::string_view message) {
  if (!shared_->status.ok()) return;
  shared_->status = absl::InvalidArgumentError(fmt::format(
      "{}{}{}{}", shared_->document->place(path), path, path.empty() ? "" : ": ", message));
}

void Fields::wrong_type(const std::string& path, std::string_view expected, const Json& found) {
  fail_at(path, fmt::format("found {}, expected {}", kind_of(found), expected));
}

void Fields::fail(std::string_view key, std::string_view message) {
  fail_at(path_of(key), message);
}

void Fields::fail(std::string_view key, const Status& status) {
  fail(key, std::string(status.message()));
}

void Fields::missing(std::string_view key) {
  if (!shared_->missing.ok()) return;
  const std::string& path = table_->path;
  shared_->missing = absl::InvalidArgumentError(fmt::format(
      "{}{}{}{} is missing", shared_->document->place(path), path, path.empty() ? "" : ": ", key));
}

bool Fields::failed() const { return !shared_->status.ok() || !shared_->missing.ok(); }

const Json* Fields::find(std::string_view key) {
  table_->known.emplace(key);
  if (!table_->object) return nullptr;
  auto it = table_->object->find(std::string(key));
  return it == table_->object->end() ? nullptr : &*it;
}

bool Fields::has(std::string_view key) { return find(key) != nullptr; }

bool Fields::is_boolean(std::string_view key) {
  const Json* value = find(key);
  return value && value->is_boolean();
}

template <typename Number>
bool Fields::number(const Json& value, const std::string& path, Number* out, Number low,
                    Number high) {
  constexpr bool kWhole = std::is_same_v<Number, int>;
  if (!(kWhole ? value.is_number_integer() : value.is_number())) {
    wrong_type(path, kWhole ? "a whole number" : "a number", value);
    return false;
  }
  // As a real: any 64-bit integer compares correctly with the small ranges used here.
  double found = value.get<double>();
  if (!(found >= low && found <= high)) {
    fail_at(path, fmt::format("found {}, expected {} to {}",
                              kWhole ? value.dump() : fmt::format("{}", found), low, high));
    return false;
  }
  *out = value.get<Number>();
  return true;
}

void Fields::read(std::string_view key, int* out, int low, int high) {
  if (const Json* value = find(key)) number(*value, path_of(key), out, low, high);
}

void Fields::read(std::string_view key, double* out, double low, double high) {
  if (const Json* value = find(key)) number(*value, path_of(key), out, low, high);
}

void Fields::read(std::string_view key, bool* out) {
  const Json* value = find(key);
  if (!value) return;
  if (!value->is_boolean()) return wrong_type(path_of(key), "true or false", *value);
  *out = value->get<bool>();
}

void Fields::read(std::string_view key, std::string* out) {
  const Json* value = find(key);
  if (!value) return;
  if (!value->is_string()) return wrong_type(path_of(key), "a string", *value);
  *out = value->get<std::string>();
}

void Fields::read(std::string_view key, Activation* out) {
  const Json* value = find(key);
  if (!value) return;
  if (!value->is_string()) return wrong_type(path_of(key), "the name of an activation", *value);
  StatusOr<Activation> activation = parse_activation(value->get<std::string>());
  if (!activation.ok()) return fail(key, activation.status());
  *out = *activation;
}

template <typename Number>
void Fields::numbers(std::string_view key, std::vector<Number>* out, Number low, Number high) {
  const Json* value = find(key);
  if (!value) return;
  std::string path = path_of(key);
  if (!value->is_array()) return wrong_type(path, "an array of numbers", *value);
  if (value->empty() || value->size() > kMaxListLength) {
    return fail_at(path,
                   fmt::format("found {} values, expected 1 to {}", value->size(), kMaxListLength));
  }
  out->clear();
  for (const Json& item : *value) {
    Number parsed{};
    if (!number(item, child(path, out->size()), &parsed, low, high)) return;
    out->push_back(parsed);
  }
}

void Fields::read(std::string_view key, std::vector<int>* out, int low, int high) {
  numbers(key, out, low, high);
}

void Fields::read(std::string_view key, std::vector<double>* out, double low, double high) {
  numbers(key, out, low, high);
}

Fields Fields::table(std::string_view key) { return Fields(shared_, find(key), path_of(key)); }

std::vector<Fields> Fields::tables(std::string_view key, int limit) {
  std::vector<Fields> result;
  const Json* value = find(key);
  if (!value) return result;
  std::string path = path_of(key);
  if (!value->is_array()) {
    wrong_type(path, "an array of tables", *value);
    return result;
  }
  if (value->size() > static_cast<size_t>(limit)) {
    fail_at(path, fmt::format("found {} entries, expected at most {}", value->size(), limit));
    return result;
  }
  for (const Json& item : *value) {
    result.push_back(Fields(shared_, &item, child(path, result.size())));
  }
  return result;
}

Status Fields::finish() {
  for (const auto& table : shared_->tables) {
    if (!table->object) continue;
    for (const auto& [key, value] : table->object->items()) {
      if (!shared_->status.ok() || table->known.contains(key)) continue;
      std::vector<std::string> known(table->known.begin(), table->known.end());
      std::string nearest = nearest_name(key, known);
      fail_at(child(table->path, key),
              nearest.empty() ? fmt::format("unknown key, expected one of {}", join(known))
                              : fmt::format("unknown key, did you mean \"{}\"?", nearest));
    }
  }
  return shared_->status.ok() ? shared_->missing : shared_->status;
}

}  // namespace chanas
