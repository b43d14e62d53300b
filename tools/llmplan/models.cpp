// llmplan models [NAME]: the built-in models, with parameters counted from their shapes.
#include <iostream>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/table.h"

namespace llmplan::cli {
namespace {

Exit list(bool json) {
  Json documents = Json::array();
  std::vector<std::vector<std::string>> rows;
  for (const std::string& name : model_names()) {
    const ModelConfig m = read_model(name);
    Json entry = model_json(m);
    const std::string blocked = why_not_runnable(m);
    entry["runnable"] = blocked.empty();
    documents.push_back(entry);
    rows.push_back({name, m.model_type, short_count(static_cast<double>(parameters(m))),
                    active_parameters(m) == parameters(m) ? "" : short_count(static_cast<double>(active_parameters(m))),
                    std::to_string(m.num_hidden_layers), std::to_string(m.hidden_size),
                    fmt::format("{}/{}", m.num_attention_heads, m.num_key_value_heads), grouped(m.vocab_size),
                    blocked.empty() ? "yes" : "estimate only"});
  }
  if (json) {
    print_document({{"schema", "llmplan.models/1"}, {"models", documents}});
    return Exit::ok;
  }
  std::cout << table({{"name", Align::left}, {"type", Align::left}, {"parameters"}, {"active"}, {"layers"}, {"hidden"},
                      {"heads/kv"}, {"vocabulary"}, {"run", Align::left}}, rows)
            << fmt::format("\n {} models in {}/models; any other: a YAML file or a Hugging Face directory\n",
                           rows.size(), data_directory());
  return Exit::ok;
}

Exit show(const std::string& name, bool json) {
  const ModelConfig m = read_model(name);
  Json tensor_list = Json::array();
  for (const Tensor& t : tensors(m)) tensor_list.push_back({{"name", t.name}, {"shape", t.shape}});
  if (json) {
    Json document = model_json(m);
    document["schema"] = "llmplan.model/1";
    document["tensors"] = tensor_list;
    print_document(document);
    return Exit::ok;
  }
  const Json fields = model_json(m);
  for (const auto& [key, value] : fields.items())
    std::cout << fmt::format(" {:<24} {}\n", key,
                             value.is_number_integer() ? grouped(value.get<std::int64_t>())
                             : value.is_string()       ? value.get<std::string>()
                                                       : value.dump());
  const std::string blocked = why_not_runnable(m);
  std::cout << fmt::format(" {:<24} {}\n\n", "run", blocked.empty() ? "yes" : "no: " + blocked);
  std::vector<std::vector<std::string>> rows;
  for (const Tensor& t : tensors(m)) {
    if (t.layer > 0 && t.layer + 1 < m.num_hidden_layers) continue;  // first and last layer only
    std::int64_t n = 1;
    std::string shape;
    for (std::int64_t d : t.shape) {
      n *= d;
      shape += (shape.empty() ? "" : " x ") + std::to_string(d);
    }
    rows.push_back({t.name, shape, grouped(n)});
  }
  std::cout << table({{"tensor (first and last layer)", Align::left}, {"shape"}, {"parameters"}}, rows);
  return Exit::ok;
}

}  // namespace

void add_models(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("models", "built-in models, or one model's tensors");
  auto name = std::make_shared<std::string>();
  sub->add_option("MODEL", *name, "show this one (a name, a YAML file, a Hugging Face directory)");
  sub->callback([name, sub, &session] {
    session.action = [name, sub, &session] {
      return sub->count("MODEL") > 0 ? show(*name, session.json) : list(session.json);
    };
  });
}

}  // namespace llmplan::cli
