#pragma once
// Internal to the store: may a file be there? Says what SQLite would only call "unable to open
// database file".

#include <cstdint>
#include <string>
#include <string_view>

#include "chanas/base/status.h"

namespace chanas::internal {

// OK for a file that can be read and written, or created, on a local file system, and that is an
// SQLite file or empty if it exists; else as Store::open.
Status check_place(const std::string& path);

// The name of a network file system by its statfs magic, or "" for a local one. SQLite's locks and
// shared memory do not work across machines.
std::string_view network_file_system(int64_t magic);

}  // namespace chanas::internal
