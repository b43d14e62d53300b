// llmplan export PLAN DIR: a run's newest checkpoint as a Hugging Face model directory. A run that ended
// has written one already (DIR/hf); this is for one that was stopped.
#include <iostream>

#include <fmt/format.h>

#include "executor/checkpoint.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/plan_io.h"

namespace llmplan::cli {
namespace {

Exit export_run(const std::string& plan_file, const std::string& directory, std::string out, bool json) {
  const Plan plan = read_plan(plan_file);
  const auto newest = latest_checkpoint(directory + "/checkpoints");
  if (!newest)
    throw Error("E0407", Exit::data, fmt::format("{} holds no checkpoint", directory),
                "give the --out directory of a run of this plan");
  if (out.empty()) out = directory + "/hf";
  Ranks ranks(plan);
  const auto progress = load_checkpoint(*newest, ranks, {});
  export_weights(out, ranks, plan.model);
  if (json) print_document({{"schema", "llmplan.export/1"}, {"checkpoint", *newest}, {"step", progress.step}, {"directory", out}});
  else std::cout << fmt::format("wrote {0}/model.safetensors and {0}/config.json from {1} (step {2})\n", out, *newest, progress.step);
  return Exit::ok;
}

}  // namespace

void add_export(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("export", "a checkpoint as a Hugging Face model directory");
  auto plan = std::make_shared<std::string>();
  auto directory = std::make_shared<std::string>();
  auto out = std::make_shared<std::string>();
  sub->add_option("PLAN", *plan, "the run's plan")->required();
  sub->add_option("DIR", *directory, "the run's --out directory")->required();
  sub->add_option("-o,--out", *out, "where to write (default: DIR/hf)")->type_name("DIR");
  sub->callback([=, &session] {
    session.action = [=, &session] { return export_run(*plan, *directory, *out, session.json); };
  });
}

}  // namespace llmplan::cli
