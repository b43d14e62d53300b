// One file per subcommand; each exports one function that adds its options to the command line and
// sets `session.action` when the user chose it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "costmodel/error.h"

namespace llmplan::cli {

struct Session {
  bool json = false;               // --json: one document on stdout, everything else on stderr
  std::function<Exit()> action;    // what the chosen subcommand does, run after parsing
  // Runs another command line in this process, e.g. {"estimate", "tiny-1m"}.
  std::function<Exit(const std::vector<std::string>&)> dispatch;
};

void add_estimate(CLI::App&, Session&);
void add_tune(CLI::App&, Session&);
void add_simulate(CLI::App&, Session&);
void add_run(CLI::App&, Session&);
void add_report(CLI::App&, Session&);
void add_calibrate(CLI::App&, Session&);
void add_explain(CLI::App&, Session&);
void add_why_not(CLI::App&, Session&);
void add_models(CLI::App&, Session&);
void add_hardware(CLI::App&, Session&);
void add_env(CLI::App&, Session&);
void add_data(CLI::App&, Session&);
void add_checkpoint(CLI::App&, Session&);
void add_validate(CLI::App&, Session&);
void add_export(CLI::App&, Session&);
void add_demo(CLI::App&, Session&);
void add_help(CLI::App&, Session&);

}  // namespace llmplan::cli
