#pragma once

#include <string>

// The log of one process. Every line carries the rank: "[rank 1/4] ...". Rank 0 writes everything
// to standard error, other ranks warnings and errors only; with a log directory every rank also
// writes everything to a file of its own. Results belong on standard output, which the log leaves
// alone. All functions may be called from any thread.
namespace lockstep::launch::log {

struct Settings {
  int rank = 0;
  int size = 1;           // 0: not known yet
  std::string directory;  // empty: no files; created if it does not exist
};

// Before the first call the log behaves like rank 0 of 1 without a prefix. May be called again when
// more is known. Throws Error if the directory or the file cannot be written.
void start(const Settings& settings);

void info(const std::string& text);
void warn(const std::string& text);
void error(const std::string& text);

// The file this rank writes, "DIR/rank_0001.log", or empty.
std::string file();

// A line that stays at the bottom of the terminal, replaced by the next one and repeated below
// other messages; an empty text removes it. Only for terminals that understand "\r" (see
// progress.h).
void status(const std::string& text);

void flush() noexcept;

}  // namespace lockstep::launch::log
