#pragma once
// One training per folder.

#include <string>
#include <utility>

#include "chanas/base/status.h"

namespace chanas {

// Held while a training works in a folder.
class FolderLock {
 public:
  // Makes the folder, and removes what a kill in the middle of writing left behind. kAborted:
  // another process holds it. kInvalidArgument: cannot write there.
  static StatusOr<FolderLock> take(const std::string& folder);
  FolderLock(FolderLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock();

 private:
  explicit FolderLock(int file) : file_(file) {}
  int file_;
};

}  // namespace chanas
