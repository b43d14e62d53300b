// llmplan data FILE: what a training file holds, and whether it is sound.
#include <iostream>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "executor/tokens.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/strategy_fields.h"
#include "tools/llmplan/table.h"

namespace llmplan::cli {
namespace {

struct Options { std::string file, model, seq = "512"; };

// As text where the ids are bytes, as numbers otherwise.
std::string preview(const std::vector<std::int32_t>& ids, bool text) {
  std::string shown;
  for (std::int32_t id : ids) {
    if (text && display_width(shown) > 60) break;
    if (!text) shown += (shown.empty() ? "" : " ") + std::to_string(id);
    else if (id >= 32 && id < 127) shown += static_cast<char>(id);
    else shown += id == '\n' ? "\\n" : "·";
  }
  return shown;
}

Exit inspect(const Options& o, bool json) {
  const std::int64_t seq = read_count("--seq", o.seq);
  const std::int64_t vocabulary = o.model.empty() ? std::numeric_limits<std::int32_t>::max() : read_model(o.model).vocab_size;
  const auto tokens = open_tokens(o.file, vocabulary);
  check_ids(*tokens);
  const std::int64_t n = std::min<std::int64_t>(tokens->size(), 1 << 20);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  tokens->read(0, ids);
  const std::set<std::int32_t> distinct(ids.begin(), ids.end());
  const bool text = tokens->description().find(": text,") != std::string::npos;
  const std::int64_t sequences = std::max<std::int64_t>(0, (tokens->size() - 1) / seq);
  if (json) {
    print_document({{"schema", "llmplan.data/1"},
                    {"file", o.file},
                    {"description", tokens->description()},
                    {"tokens", tokens->size()},
                    {"sequences", sequences},
                    {"seq", seq},
                    {"distinct_ids", distinct.size()},
                    {"largest_id", *distinct.rbegin()},
                    {"ids_looked_at", n}});
    return Exit::ok;
  }
  ids.resize(static_cast<std::size_t>(std::min<std::int64_t>(n, text ? 64 : 16)));
  std::cout << fmt::format(" {}\n {} tokens = {} sequences of {}\n ids: {} different, largest {} (of the first {})\n begins: {}\n", tokens->description(),
                           grouped(tokens->size()), grouped(sequences), grouped(seq), grouped(static_cast<std::int64_t>(distinct.size())),
                           *distinct.rbegin(), grouped(n), preview(ids, text));
  if (o.model.empty()) std::cout << " check it against a model's vocabulary with --model NAME\n";
  else std::cout << fmt::format(" every id is below the {} of {}\n", grouped(vocabulary), o.model);
  return Exit::ok;
}

}  // namespace

void add_data(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("data", "what a training file holds, and whether it is sound");
  auto o = std::make_shared<Options>();
  sub->add_option("FILE", o->file, "a text file, or the prefix of a Megatron .bin/.idx pair")->required();
  sub->add_option("--model", o->model, "check the ids against this model's vocabulary")->type_name("NAME");
  sub->add_option("--seq", o->seq, "tokens per sequence, for counting (default: 512)")->type_name("N");
  sub->callback([o, &session] {
    session.action = [o, &session] { return inspect(*o, session.json); };
  });
}

}  // namespace llmplan::cli
