#pragma once
// Two ranks without processes: threads, joined by the stand-in for NCCL (testing_nccl.cpp).

#include <functional>

#include "chanas/supernet/collective.h"

namespace chanas::testing_supernet {

// Runs `body` on both ranks; returns when both have ended. What it throws is a failure of the test.
void on_two_ranks(const std::function<void(Collective&)>& body);

}  // namespace chanas::testing_supernet
