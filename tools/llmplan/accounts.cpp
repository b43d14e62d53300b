#include "tools/llmplan/accounts.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include <fmt/format.h>

#include "costmodel/op_fields.h"
#include "tools/llmplan/format.h"

namespace llmplan::cli {
namespace {

std::string category_name(Category c) {
  switch (c) {
    case Category::weights: return "weights";
    case Category::gradients: return "gradients";
    case Category::optimizer: return "optimizer";
    case Category::activations: return "activations";
    case Category::logits: return "logits";
    case Category::buffers: return "buffers";
  }
  return "?";
}

// "L3.gate_up#2" and its like in other layers (L) and micro-batches (#) are one kind: "L*.gate_up#*".
std::string stem(const std::string& name) {
  std::string result;
  for (std::size_t i = 0; i < name.size(); ++i) {
    result += name[i];
    const bool layer = name[i] == 'L' && i == 0, micro_batch = name[i] == '#';
    if (!layer && !micro_batch) continue;
    const std::size_t digits = std::min(name.find_first_not_of("0123456789", i + 1), name.size());
    if (digits > i + 1) {
      result += '*';
      i = digits - 1;
    }
  }
  return result;
}

struct Use { std::int64_t first = std::numeric_limits<std::int64_t>::max(), last = -1; };

std::vector<Use> uses(const Program& p) {
  std::vector<Use> result(p.buffers.size());
  for (std::size_t i = 0; i < p.instrs.size(); ++i) {
    const auto touch = [&](const Ref& r) {
      Use& u = result[static_cast<std::size_t>(r.buffer)];
      u.first = std::min(u.first, static_cast<std::int64_t>(i));
      u.last = static_cast<std::int64_t>(i);
    };
    for (const Ref& r : p.instrs[i].reads) touch(r);
    for (const Ref& r : p.instrs[i].writes) touch(r);
  }
  return result;
}

std::int64_t aligned(Bytes b) { return (b.value + kAlign - 1) / kAlign * kAlign; }

// Which buffers are alive at the instruction where most bytes are.
std::vector<bool> alive_at_peak(const Program& p) {
  const std::vector<Use> use = uses(p);
  std::vector<std::int64_t> change(p.instrs.size() + 1, 0);
  for (std::size_t b = 0; b < p.buffers.size(); ++b) {
    if (p.buffers[b].persistent || p.buffers[b].space != Space::device || use[b].last < 0) continue;
    change[static_cast<std::size_t>(use[b].first)] += aligned(p.buffers[b].size);
    change[static_cast<std::size_t>(use[b].last) + 1] -= aligned(p.buffers[b].size);
  }
  std::partial_sum(change.begin(), change.end(), change.begin());
  const std::int64_t at = std::max_element(change.begin(), change.end()) - change.begin();
  std::vector<bool> alive(p.buffers.size());
  for (std::size_t b = 0; b < p.buffers.size(); ++b)
    alive[b] = p.buffers[b].space == Space::device &&
               (p.buffers[b].persistent || (use[b].first <= at && at <= use[b].last));
  return alive;
}

// The product of an op's sizes that makes `elements`, e.g. "2048 rows x 768 n": the shortest one.
std::string product_of_fields(const Op& op, std::int64_t elements) {
  struct Factor { std::string name; std::int64_t value; };
  std::vector<Factor> factors;
  std::visit([&](const auto& o) {
    std::apply([&](const auto&... field) {
      const auto add = [&](const auto& f) {
        const auto& value = o.*(f.second);
        if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::int64_t>)
          if (value > 1) factors.push_back({f.first, value});
      };
      (add(field), ...);
    }, OpFields<std::decay_t<decltype(o)>>::list);
  }, op);
  std::string best;
  std::size_t best_size = 99;
  for (std::uint32_t subset = 1; subset < (1u << factors.size()); ++subset) {
    std::int64_t product = 1;
    std::string text;
    for (std::size_t i = 0; i < factors.size() && product <= elements; ++i)
      if (subset >> i & 1) {
        product *= factors[i].value;
        text += fmt::format("{}{} {}", text.empty() ? "" : " x ", factors[i].value, factors[i].name);
      }
    if (product == 0 || elements % product != 0 || elements / product > 3) continue;
    const std::int64_t left = elements / product;
    if (left > 1) text = fmt::format("{} x {}", left, text);
    const auto size = static_cast<std::size_t>(std::popcount(subset)) + static_cast<std::size_t>(left - 1);
    if (size < best_size) best = text, best_size = size;
  }
  return best;
}

std::string formula(const Program& p, std::size_t buffer, const std::vector<std::int64_t>& writer) {
  const Buffer& b = p.buffers[buffer];
  const std::int64_t unit = size_of(b.dtype);
  const std::int64_t elements = b.size.value / unit;
  const std::string type(name_of(b.dtype));
  if (!b.persistent && writer[buffer] >= 0 && elements * unit == b.size.value) {
    const std::string product = product_of_fields(p.instrs[static_cast<std::size_t>(writer[buffer])].op, elements);
    if (!product.empty()) return fmt::format("{} x {} B ({})", product, unit, type);
  }
  std::int64_t parameters = 0;
  for (const Param& q : p.params) parameters += q.elements();
  if (elements == parameters) return fmt::format("{} parameters x {} B ({})", grouped(elements), unit, type);
  for (std::int64_t shards = 2; shards <= 64 && b.persistent; ++shards)
    if (elements == (parameters + shards - 1) / shards)
      return fmt::format("{} parameters / {} ranks x {} B ({})", grouped(parameters), shards, unit, type);
  return fmt::format("{} x {} B ({})", grouped(elements), unit, type);
}

}  // namespace

std::vector<ByteAccount> byte_accounts(const Program& p, const Layout& layout) {
  std::vector<std::int64_t> writer(p.buffers.size(), -1);
  for (std::size_t i = 0; i < p.instrs.size(); ++i)
    for (const Ref& r : p.instrs[i].writes)
      if (std::int64_t& w = writer[static_cast<std::size_t>(r.buffer)]; w < 0) w = static_cast<std::int64_t>(i);
  const std::vector<bool> alive = alive_at_peak(p);
  std::vector<ByteAccount> accounts;
  Bytes sum{};
  for (std::size_t b = 0; b < p.buffers.size(); ++b) {
    if (!alive[b]) continue;
    const Buffer& buffer = p.buffers[b];
    sum += buffer.size;
    const std::string category = category_name(buffer.category), name = stem(buffer.name);
    const auto same = std::find_if(accounts.begin(), accounts.end(), [&](const ByteAccount& a) {
      return a.category == category && a.name == name && a.each == buffer.size;
    });
    if (same != accounts.end()) ++same->count;
    else accounts.push_back({category, name, formula(p, b, writer), 1, buffer.size});
  }
  std::stable_sort(accounts.begin(), accounts.end(), [](const ByteAccount& a, const ByteAccount& b) {
    return a.total() > b.total();
  });
  accounts.push_back({"gaps", "alignment, fragmentation, and other moments' needs", "arena - all of the above", 1,
                      layout.device_arena - sum});
  return accounts;
}

std::vector<TimeAccount> time_accounts(const Program& p, const TimeModel& model) {
  std::map<std::string, std::size_t> known;
  std::vector<TimeAccount> accounts;
  for (const Instr& i : p.instrs) {
    const std::string text = op_text(i.op), phase(name_of(i.phase));
    const auto [it, fresh] = known.try_emplace(phase + text, accounts.size());
    if (fresh) accounts.push_back({text, std::string(kind_of(i.op)), phase, 0, model.time(i.op), flops(i.op), bytes_moved(i.op)});
    ++accounts[it->second].count;
  }
  std::stable_sort(accounts.begin(), accounts.end(), [](const TimeAccount& a, const TimeAccount& b) {
    return a.total() > b.total();
  });
  return accounts;
}

std::string op_text(const Op& op) {
  std::string text(kind_of(op));
  std::visit([&](const auto& o) {
    std::apply([&](const auto&... field) {
      const auto add = [&](const auto& f) {
        const auto& value = o.*(f.second);
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::int64_t> || std::is_same_v<T, int>) text += fmt::format(" {}={}", f.first, value);
        else if constexpr (std::is_same_v<T, Bytes>) text += " " + bytes_text(value);
        else if constexpr (std::is_same_v<T, Axis>) text += fmt::format(" over {}", name_of(value));
      };
      (add(field), ...);
    }, OpFields<std::decay_t<decltype(o)>>::list);
  }, op);
  return text;
}

}  // namespace llmplan::cli
