#include "executor/cuda/attention_choice.h"

#include <fmt/format.h>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>

#include "costmodel/error.h"

namespace llmplan::cuda {
namespace {

using Json = nlohmann::json;

constexpr double kFaster = 1.03;  // less is within what clocks vary from run to run

// "1x4096 32:8x128 bf16": a shape as people and the file know it.
template <class AnyOp>
std::string describe(const AnyOp& a) {
  return fmt::format("{}x{} {}:{}x{} {}", a.batch, a.seq, a.heads, a.kv_heads, a.head_dim, name_of(a.dtype));
}
std::string key(const Op& op, AttentionPolicy policy) {
  std::string text;
  if (auto* forward = std::get_if<Attention>(&op)) text = "forward " + describe(*forward);
  else text = fmt::format("backward {} in {}", describe(std::get<AttentionGrad>(op)), std::get<AttentionGrad>(op).workspace);
  return text + (policy == AttentionPolicy::fast ? ", any order" : policy == AttentionPolicy::library ? ", whatever it takes" : "");
}

template <class AnyOp>
std::string why_not_shape(const AnyOp& a) {
  if (a.documents) return "documents in one sequence are masked by llmplan's alone";
  if (!a.causal) return "it is not causal";
  if (a.dtype != DType::bf16 && a.dtype != DType::fp16) return fmt::format("it is in {}", name_of(a.dtype));
  if (a.head_dim != 64 && a.head_dim != 96 && a.head_dim != 128) return fmt::format("head_dim is {}", a.head_dim);
  // Gradients of the last half tile became NaN in several releases of cuDNN.
  if (a.seq % 128) return "the sequence is no multiple of 128 tokens";
  // The reference reads every key for every query from the caches: by arithmetic some seconds at 32,768 tokens, and four
  // times as much for twice as many.
  if (a.seq > 65536) return "a sequence of more than 65536 tokens takes minutes to check";
  return "";
}

// What a library is worth for one shape: used or not, and why.
AttentionChoice judge(Device& device, AttentionLibrary& library, const Op& op, AttentionPolicy policy, int runs) {
  const AttentionCheck check = check_attention(device, library, op, runs);
  if (const std::string mistake = wrong(check); !mistake.empty()) return {op, false, "its result is wrong: " + mistake};
  const bool any_order = policy == AttentionPolicy::fast || policy == AttentionPolicy::library;
  if (!check.same_bits && !any_order) return {op, false, "it gives other bits each time (LLMPLAN_ATTENTION=fast accepts that)"};
  const double ratio = check.own / check.library;
  const std::string speed = fmt::format("{:.2f} times as fast as llmplan's", ratio);
  return {op, ratio >= kFaster || policy == AttentionPolicy::library, speed};
}

// Verdicts of earlier runs. A file that is damaged costs time, nothing else.
class Verdicts {
 public:
  explicit Verdicts(std::string file) : file_(std::move(file)), json_(read(file_)) {}
  bool find(const std::string& key, AttentionChoice& choice) const {
    const Json entry = json_.value(key, Json());
    if (!entry.is_object() || !entry.value("library", Json()).is_boolean() || !entry.value("why", Json()).is_string()) return false;
    choice.library = entry["library"];
    choice.why = entry["why"];
    return true;
  }
  void add(const std::string& key, const AttentionChoice& choice) {
    json_[key] = {{"library", choice.library}, {"why", choice.why}};
    changed_ = true;
  }
  void save() const {
    if (!changed_ || file_.empty()) return;
    Json whole = json_;
    whole.update(read(file_));  // what another process decided meanwhile stands
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(file_).parent_path(), ignored);
    const std::string temporary = file_ + ".tmp";
    if (std::ofstream(temporary) << whole.dump(1)) std::filesystem::rename(temporary, file_, ignored);
  }

 private:
  static Json read(const std::string& file) {
    Json json;
    if (std::ifstream in(file); !file.empty() && in) json = Json::parse(in, nullptr, false);
    return json.is_object() ? json : Json::object();
  }
  std::string file_;
  Json json_;
  bool changed_ = false;
};

AttentionChoice choose(Device& device, AttentionLibrary& library, const Op& op, AttentionPolicy policy, int runs, Verdicts& verdicts) {
  AttentionChoice choice{op, false, why_not_asked(op)};
  if (!choice.why.empty()) return choice;
  const std::string name = key(op, policy);
  const bool known = verdicts.find(name, choice);
  if (known && !choice.library) return choice;
  try {
    const bool same_bits = policy == AttentionPolicy::same_bits;
    if (const std::string refusal = library.prepare(op, same_bits); !refusal.empty()) return {op, false, refusal};
    if (known) return choice;
    choice = judge(device, library, op, policy, runs);
  } catch (const std::exception& e) {  // of a library that fails or a card that is full: llmplan's kernels need neither
    return {op, false, fmt::format("it could not be checked: {}", e.what())};
  }
  verdicts.add(name, choice);
  return choice;
}

}  // namespace

AttentionPolicy attention_policy(const char* word) {
  const std::string_view w = word ? word : "";
  if (w.empty() || w == "auto") return AttentionPolicy::same_bits;
  if (w == "fast") return AttentionPolicy::fast;
  if (w == "cudnn") return AttentionPolicy::library;
  if (w == "own") return AttentionPolicy::own;
  throw Error("E0511", Exit::environment, fmt::format("LLMPLAN_ATTENTION is '{}'", w), "it may be auto, fast, cudnn or own: docs/gpu.md says what they are");
}

std::string why_not_asked(const Op& op) {
  if (auto* forward = std::get_if<Attention>(&op)) return why_not_shape(*forward);
  const auto& backward = std::get<AttentionGrad>(op);
  const std::string why = why_not_shape(backward);
  return why.empty() && backward.workspace == 0 ? "the program has no workspace for it" : why;
}

AttentionChoices choose_attention(Device& device, AttentionLibrary* library, const std::string& why_none, const std::vector<Op>& ops,
                                  AttentionPolicy policy, const std::string& file, int runs) {
  // Ranks that share a card, or a file, decide one after another: else they would time each other's work.
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  AttentionChoices choices;
  Verdicts verdicts(file);
  choices.library = library;
  if (library) choices.library_name = library->name();
  for (const Op& op : ops) {
    if (!std::holds_alternative<Attention>(op) && !std::holds_alternative<AttentionGrad>(op)) continue;
    AttentionChoice choice = policy == AttentionPolicy::own ? AttentionChoice{op, false, "LLMPLAN_ATTENTION=own"}
                             : !library                     ? AttentionChoice{op, false, why_none}
                                                            : choose(device, *library, op, policy, runs, verdicts);
    if (choice.library) choices.by_library.insert(op);
    choices.all.push_back(std::move(choice));
  }
  verdicts.save();
  return choices;
}

std::string attention_file(const AttentionLibrary* library) {
  if (!library || library->identity().empty()) return "";
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::filesystem::path base = cache && *cache ? cache : std::string(home && *home ? home : "/tmp") + "/.cache";
  return (base / "llmplan" / fmt::format("attention-{}.json", library->identity())).string();
}

std::string text(const AttentionChoices& choices) {
  std::string all;
  for (const AttentionChoice& c : choices.all) {
    const std::string who = c.library ? choices.library_name : "llmplan's";
    const std::string why = c.why.empty() || c.library || choices.library_name.empty() ? c.why : choices.library_name + ": " + c.why;
    all += fmt::format("{}{} {} ({})", all.empty() ? "" : "; ", std::holds_alternative<Attention>(c.op) ? "forward" : "backward", who, why);
  }
  return all;
}

}  // namespace llmplan::cuda
