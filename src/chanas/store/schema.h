#pragma once
// Internal to the store: the tables, as numbered migrations.

#include <span>

namespace chanas::internal {

// "CHNS": marks a file as ours (PRAGMA application_id).
inline constexpr int kApplicationId = 0x43484e53;

// migrations()[i] leads from schema version i to i + 1; each runs in one transaction. A released
// one is never edited: a new version is one more entry, and kStoreSchemaVersion + 1.
std::span<const char* const> migrations();

}  // namespace chanas::internal
