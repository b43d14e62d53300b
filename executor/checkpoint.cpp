#include "executor/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "costmodel/error.h"
#include "executor/file.h"
#include "executor/transport.h"

namespace llmplan {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFormat = "llmplan.checkpoint/1";
constexpr const char* kPrefix = "step-";
constexpr const char* kSuffix = ".safetensors";
constexpr std::size_t kKept = 2;

struct Kind { State state; const char* prefix; };
constexpr Kind kKinds[] = {{State::weights, ""}, {State::moment1, "exp_avg."}, {State::moment2, "exp_avg_sq."}};

// What fp16 keeps beside its tensors.
constexpr std::pair<const char*, double LossScaling::*> kLossScalingFields[] = {
    {"loss scale", &LossScaling::scale},
    {"good steps in a row", &LossScaling::good_in_a_row},
    {"steps taken", &LossScaling::taken},
    {"steps skipped", &LossScaling::skipped}};

// Checkpoints of a directory by step, ascending.
std::vector<std::pair<std::int64_t, std::string>> list(const std::string& directory) {
  std::vector<std::pair<std::int64_t, std::string>> found;
  std::error_code error;
  for (auto& entry : fs::directory_iterator(directory, error)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) continue;
    std::int64_t step = -1;
    const char* end = name.data() + name.size() - std::string_view(kSuffix).size();
    auto [stop, code] = std::from_chars(name.data() + std::string_view(kPrefix).size(), end, step);
    if (code == std::errc{} && stop == end && step >= 0) found.emplace_back(step, entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

[[noreturn]] void mismatch(const std::string& path, const std::string& what) {
  throw Error("E0407", Exit::data, fmt::format("{} does not belong to this run: {}", path, what),
              "resume with the plan, data and seed that the run was started with, or start anew in another --out");
}

std::int64_t number(const SafeTensors& file, const std::string& key) {
  auto found = file.metadata().find(key);
  std::int64_t value = -1;
  if (found != file.metadata().end())
    std::from_chars(found->second.data(), found->second.data() + found->second.size(), value);
  if (value < 0) mismatch(file.path(), fmt::format("it states no '{}'", key));
  return value;
}

// A run in another precision starts with the plan's scale, and Adam's exponent is the number of steps done.
LossScaling loss_scaling(const SafeTensors& file, LossScaling s) {
  s.taken = static_cast<double>(number(file, "step"));
  for (auto& [key, field] : kLossScalingFields)
    if (auto found = file.metadata().find(key); found != file.metadata().end())
      std::from_chars(found->second.data(), found->second.data() + found->second.size(), s.*field);
  return s;
}

const SafeTensor& expect(const SafeTensors& file, const std::string& name, const FloatTensor& tensor) {
  const SafeTensor* t = file.find(name);
  if (!t) mismatch(file.path(), fmt::format("it has no tensor '{}'", name));
  if (t->shape != tensor.shape)
    mismatch(file.path(), fmt::format("'{}' is [{}] there and [{}] in the model", name, fmt::join(t->shape, ", "),
                                      fmt::join(tensor.shape, ", ")));
  return *t;
}

void require_own(const SafeTensors& file, const Identity& identity) {
  const std::string& path = file.path();
  auto text = [&](const char* key) {
    auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  if (text("format") != kFormat) mismatch(path, fmt::format("it is not a checkpoint of format {}", kFormat));
  if (hex(file.checksum()) != text("checksum"))
    throw Error("E0408", Exit::data, fmt::format("{} is damaged: its checksum does not match its data", path),
                "remove it; --resume then continues from the checkpoint before it");
  auto there = nlohmann::json::parse(text("identity"), nullptr, false);
  for (auto& [key, value] : identity) {
    std::string was = there.is_object() ? there.value(key, "nothing") : "nothing";
    if (was != value) mismatch(path, fmt::format("{} was {} there and is {} here", key, was, value));
  }
}

void require_known(const SafeTensors& file, const Ranks& ranks) {
  for (auto& t : file.tensors()) {
    bool known = std::any_of(ranks.tensors().begin(), ranks.tensors().end(), [&](auto& ours) { return ours.name == t.name; });
    // Some files repeat a tied head, or hold the constant frequencies of RoPE.
    if (!known && t.name != "lm_head.weight" && !t.name.ends_with("rotary_emb.inv_freq"))
      mismatch(file.path(), fmt::format("the model has no tensor '{}'", t.name));
  }
}

std::int64_t elements(const FloatTensor& t) {
  std::int64_t n = 1;
  for (std::int64_t d : t.shape) n *= d;
  return n;
}

// Rank 0 alone has `file`: the machines of the others may not see it. What is wrong with it is found before.
void fill_tensor(Ranks& ranks, State state, const FloatTensor& tensor, const SafeTensors* file, const SafeTensor* there) {
  std::vector<float> piece;
  const std::int64_t n = elements(tensor);
  for (std::int64_t first = 0; first < n; first += kPiece) {
    piece.resize(static_cast<std::size_t>(std::min(kPiece, n - first)));
    if (file) file->read(*there, first, piece);
    if (Transport* t = ranks.transport()) broadcast(*t, std::as_writable_bytes(std::span(piece)));
    ranks.write(state, tensor.name, first, piece);
  }
}

// As write_safetensors(), by rank 0; the others take part in the same reads.
void write_tensors(const std::string& path, const Ranks& ranks, const std::vector<FloatTensor>& tensors,
                   const std::map<std::string, std::string>& metadata,
                   const std::function<void(std::size_t, std::int64_t, std::span<float>)>& fill) {
  if (ranks.first()) return write_safetensors(path, tensors, metadata, fill);
  std::vector<float> piece;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    for (std::int64_t first = 0, n = elements(tensors[i]); first < n; first += kPiece) {
      piece.resize(static_cast<std::size_t>(std::min(kPiece, n - first)));
      fill(i, first, piece);
    }
}

}  // namespace

void save_checkpoint(const std::string& directory, const Ranks& ranks, const Progress& progress, const Identity& identity,
                     const Settings& settings) {
  on_first(ranks.transport(), [&] { make_directory(directory); });
  std::vector<FloatTensor> tensors;
  for (auto& kind : kKinds)
    for (auto& t : ranks.tensors()) tensors.push_back({kind.prefix + t.name, t.shape});
  std::map<std::string, std::string> metadata = {{"format", kFormat},
                                                 {"step", std::to_string(progress.step)},
                                                 {"samples", std::to_string(progress.samples)},
                                                 {"identity", nlohmann::json(identity).dump()},
                                                 {"settings", nlohmann::json(settings).dump()}};
  if (const LossScaling s = ranks.loss_scaling(); ranks.programs().programs.front().loss_scaling >= 0)
    for (auto& [key, field] : kLossScalingFields) metadata[key] = fmt::format("{}", s.*field);
  std::size_t n = ranks.tensors().size();
  write_tensors(fmt::format("{}/{}{:08}{}", directory, kPrefix, progress.step, kSuffix), ranks, tensors, metadata,
                    [&](std::size_t i, std::int64_t first, std::span<float> out) {
                      ranks.read(kKinds[i / n].state, ranks.tensors()[i % n].name, first, out);
                    });
  if (!ranks.first()) return;
  auto all = list(directory);
  for (std::size_t i = 0; i + kKept < all.size(); ++i) ::unlink(all[i].second.c_str());
}

std::optional<std::string> latest_checkpoint(const std::string& directory) {
  auto all = list(directory);
  return all.empty() ? std::nullopt : std::optional(all.back().second);
}

Progress load_checkpoint(const std::string& path, Ranks& ranks, const Identity& identity) {
  std::optional<SafeTensors> opened;
  Progress progress;
  LossScaling scaling = ranks.loss_scaling();
  on_first(ranks.transport(), [&] {
    const SafeTensors& file = opened.emplace(path);
    require_own(file, identity);
    for (auto& kind : kKinds)
      for (auto& t : ranks.tensors()) expect(file, kind.prefix + t.name, t);
    progress = {number(file, "step"), number(file, "samples")};
    scaling = loss_scaling(file, scaling);
  });
  const SafeTensors* file = opened ? &*opened : nullptr;
  for (auto& kind : kKinds)
    for (auto& t : ranks.tensors())
      fill_tensor(ranks, kind.state, t, file, file ? file->find(kind.prefix + t.name) : nullptr);
  if (Transport* t = ranks.transport()) broadcast(*t, std::as_writable_bytes(std::span(&progress, 1)));
  if (Transport* t = ranks.transport()) broadcast(*t, std::as_writable_bytes(std::span(&scaling, 1)));
  ranks.set_loss_scaling(scaling);
  return progress;
}

std::string changed_settings(const std::string& path, const Settings& settings) {
  const SafeTensors file(path);
  const auto found = file.metadata().find("settings");
  const auto there = nlohmann::json::parse(found == file.metadata().end() ? "{}" : found->second, nullptr, false);
  std::string text;
  for (auto& [key, value] : settings)
    if (const std::string was = there.is_object() ? there.value(key, value) : value; was != value)
      text += fmt::format("{}{} {} -> {}", text.empty() ? "" : ", ", key, was, value);
  return text;
}

void load_weights(const std::string& path, Ranks& ranks) {
  std::optional<SafeTensors> opened;
  on_first(ranks.transport(), [&] {
    const SafeTensors& file = opened.emplace(path);
    require_known(file, ranks);
    for (auto& t : ranks.tensors()) expect(file, t.name, t);
  });
  for (auto& t : ranks.tensors())
    fill_tensor(ranks, State::weights, t, opened ? &*opened : nullptr, opened ? opened->find(t.name) : nullptr);
}

void export_weights(const std::string& directory, const Ranks& ranks, const ModelConfig& m) {
  on_first(ranks.transport(), [&] { make_directory(directory); });
  write_tensors(directory + "/model.safetensors", ranks, ranks.tensors(), {{"format", "pt"}},
                    [&](std::size_t i, std::int64_t first, std::span<float> out) {
                      ranks.read(State::weights, ranks.tensors()[i].name, first, out);
                    });
  if (!ranks.first()) return;
  nlohmann::ordered_json config = {
      {"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"hidden_size", m.hidden_size},
      {"num_hidden_layers", m.num_hidden_layers}, {"intermediate_size", m.intermediate_size},
      {"num_attention_heads", m.num_attention_heads}, {"num_key_value_heads", m.num_key_value_heads},
      {"head_dim", m.head_dim}, {"vocab_size", m.vocab_size}, {"max_position_embeddings", m.max_position_embeddings},
      {"tie_word_embeddings", m.tie_word_embeddings}, {"rms_norm_eps", m.rms_norm_eps}, {"rope_theta", m.rope_theta},
      {"hidden_act", "silu"}, {"attention_bias", false}, {"mlp_bias", false}, {"torch_dtype", "float32"}};
  if (const RopeScaling& r = m.rope_scaling; r.rope_type != "default") {
    config["rope_scaling"] = {{"rope_type", r.rope_type}, {"factor", r.factor}};
    if (r.rope_type == "llama3")
      config["rope_scaling"].update({{"low_freq_factor", r.low_freq_factor}, {"high_freq_factor", r.high_freq_factor},
                                     {"original_max_position_embeddings", r.original_max_position_embeddings}});
  }
  write_file(directory + "/config.json", config.dump(2) + "\n");
}

}  // namespace llmplan
