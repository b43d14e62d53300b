// The one exception that user input can cause. It is thrown where the fault is found and caught once,
// in `main`, which prints it as
//
//     file:line:col: error[E0105]: unknown key 'tensor_parralel' in parallelism
//           14 |     tensor_parralel: 4
//              |     ^^^^^^^^^^^^^^^ did you mean 'tensor_parallel'?
//
// Codes: E01xx syntax and flags · E02xx models and profiles · E03xx strategies and plans ·
// E04xx data and checkpoints · E05xx environment and files · E06xx lost ranks · E07xx numerics.
// The list, with a paragraph each, is docs/errors.md.
#pragma once

#include <exception>
#include <string>

namespace llmplan {

enum class Exit : int {
  ok = 0,
  bug = 1,
  usage = 2,         // bad command line, configuration or profile
  nothing_fits = 3,  // no strategy, or not this one, fits
  data = 4,          // data or checkpoint missing or corrupt
  environment = 5,   // disk, permissions, devices, launcher
  rank_lost = 6,
  non_finite = 7,
  preempted = 75,    // stopped on request after a good checkpoint
};

struct Location {
  std::string file;         // empty: no file is to blame
  int line = 0, column = 0; // from 1; 0: unknown
  std::string source_line;  // the text of that line, for the caret
  int length = 1;           // characters to underline
};

struct Error : std::exception {
  std::string code;     // "E0105"
  Exit exit = Exit::usage;
  std::string message;  // one line: what is wrong
  std::string hint;     // one line or more: what to do next; never empty
  Location location;

  Error(std::string code, Exit exit, std::string message, std::string hint, Location where = {})
      : code(std::move(code)), exit(exit), message(std::move(message)), hint(std::move(hint)),
        location(std::move(where)) {}
  const char* what() const noexcept override { return message.c_str(); }
};

}  // namespace llmplan
