#pragma once
// Ctrl-C: the first one asks every loop to save and stop, the second one ends the program at once.

#include "chanas/base/status.h"

namespace chanas {

// Installs handlers for SIGINT and SIGTERM, and turns writing to a closed pipe or past a file size
// limit from a signal into an error of the write. Call once, early in main.
void install_signal_handlers();

// True after the first signal. Safe from any thread; loops poll it.
bool cancelled();

// For tests and for programs that stop on their own account.
void request_cancellation();
void reset_cancellation();

// kCancelled with the text "interrupted" when cancelled(), else OK.
Status check_cancelled();

}  // namespace chanas
