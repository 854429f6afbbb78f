#pragma once
// TOML and JSON documents read the same way, field by field, with errors that say where: network
// and space files have one reader each, whichever syntax they come in.
//
//   CHANAS_ASSIGN_OR_RETURN(Document document, Document::from_toml(text, "spaces/my.toml"));
//   Fields root(document);
//   root.require("classes", &space.classes, 1, 1000);
//   Fields stem = root.table("stem");
//   stem.read("stride", &space.stem_stride, 1, 4);
//   CHANAS_RETURN_IF_ERROR(root.finish());
//
// Error messages: "spaces/my.toml:12: blocks[2].stride: found 9, expected 1 to 4".

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "chanas/arch/network.h"
#include "chanas/base/json.h"
#include "chanas/base/status.h"

namespace chanas {

// A parsed document. Immutable; copies share the contents.
class Document {
 public:
  // kInvalidArgument: "file:line: " and the syntax error. Dates are refused.
  static StatusOr<Document> from_toml(std::string_view text, std::string_view file_name);
  static Document from_json(const Json& json);

  const Json& root() const { return *root_; }
  // "file:12: " for a value path such as "units[3].kernel", "" for JSON.
  std::string place(const std::string& path) const;
  // An error about the whole document: "file: " before its message, unchanged for JSON.
  Status annotate(const Status& status) const;
  // The file's name without folders and ".toml", made fit for validate_name(); "" for JSON.
  std::string stem() const;

 private:
  std::shared_ptr<const Json> root_;
  std::string file_name_;
  std::map<std::string, int> lines_;  // of every value, by path
};

// One table of a document. Reads check type and range; the first failure is kept for the whole
// document and comes out of finish(). An absent key leaves the variable as it is. Refers to the
// document: keep that alive.
class Fields {
 public:
  explicit Fields(const Document& document);

  bool has(std::string_view key);
  // Whole numbers and reals in [low, high]; NaN is never inside.
  void read(std::string_view key, int* out, int low, int high);
  void read(std::string_view key, double* out, double low, double high);
  void read(std::string_view key, bool* out);
  void read(std::string_view key, std::string* out);
  void read(std::string_view key, Activation* out);
  // Arrays of 1 to 256 numbers, each in [low, high].
  void read(std::string_view key, std::vector<int>* out, int low, int high);
  void read(std::string_view key, std::vector<double>* out, double low, double high);
  // Like read(), but an absent key is an error.
  template <typename T, typename... Range>
  void require(std::string_view key, T* out, Range... range) {
    has(key) ? read(key, out, range...) : missing(key);
  }

  // A nested table; empty (every read finds nothing) when absent.
  Fields table(std::string_view key);
  // An array of at most `limit` tables.
  std::vector<Fields> tables(std::string_view key, int limit);
  // True when the value is a boolean, for keys that take more than one type.
  bool is_boolean(std::string_view key);

  // Records an error at this key ("" = at the table itself), unless there is one already.
  void fail(std::string_view key, std::string_view message);
  void fail(std::string_view key, const Status& status);
  // Records that this key, or one of several ("mid or expand"), should be there.
  void missing(std::string_view key);
  // True after any error: what was read is incomplete.
  bool failed() const;
  // For the whole document, once everything is read: the first error; else a key that nobody asked
  // for; else the first missing key (a mistyped key explains the missing one).
  Status finish();

 private:
  struct Shared;
  struct Table;
  Fields(std::shared_ptr<Shared> shared, const Json* object, std::string path);
  const Json* find(std::string_view key);
  template <typename Number>
  bool number(const Json& value, const std::string& path, Number* out, Number low, Number high);
  template <typename Number>
  void numbers(std::string_view key, std::vector<Number>* out, Number low, Number high);
  std::string path_of(std::string_view key) const;
  void fail_at(const std::string& path, std::string_view message);
  void wrong_type(const std::string& path, std::string_view expected, const Json& found);

  std::shared_ptr<Shared> shared_;
  std::shared_ptr<Table> table_;
};

}  // namespace chanas
