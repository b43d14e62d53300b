// Plan -> plan.json.
#include <cmath>
#include <stdexcept>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "costmodel/error.h"
#include "planner/lower.h"
#include "planner/plan_checksum.h"
#include "planner/plan_fields.h"
#include "planner/plan_file.h"

namespace llmplan {
namespace plan_file {
namespace {

using Json = nlohmann::ordered_json;

Json number(double v) {
  if (!std::isfinite(v)) throw std::logic_error("a plan holds a number that is not finite");
  return v;
}

Json write(bool v) { return v; }
Json write(std::int64_t v) { return v; }
Json write(int v) { return v; }
Json write(std::uint64_t v) { return v; }
Json write(double v) { return number(v); }
Json write(const std::string& v) { return v; }
template <class Dimension, class Rep>
Json write(Quantity<Dimension, Rep> q) { return write(q.value); }
template <class E>
  requires std::is_enum_v<E>
Json write(E e) { return std::string(name_of(e)); }

Json write(const std::vector<std::int64_t>& v) { return Json(v); }
Json write(const Curve& c) {
  Json points = Json::array();
  for (auto [x, y] : c.points) points.push_back({number(x), number(y)});
  return points;
}
Json write(const std::map<DType, FlopsPerSecond>& peaks) {
  Json object = Json::object();
  for (auto [dtype, rate] : peaks) object[std::string(name_of(dtype))] = number(rate.value);
  return object;
}
Json write(const std::vector<MeasuredOp>& ops) {
  Json list = Json::array();
  for (const MeasuredOp& m : ops) {
    Json entry{{"op", std::string(kind_of(m.op))}};
    std::visit([&](const auto& op) {
      for_each_field(op, [&](const char* key, const auto& value) { entry[key] = write(value); });
    }, m.op);
    entry["ranks"] = m.ranks;
    entry["threads"] = m.threads;
    entry["time"] = number(m.time.value);
    list.push_back(std::move(entry));
  }
  return list;
}

Json write(const std::vector<Contention>& pairs);
Json write(const std::vector<Tier>& tiers);
Json write(const std::vector<Part>& parts);

template <class T>
  requires requires { Fields<T>::list; }
Json write(const T& v) {
  Json object = Json::object();
  for_each<T>([&](const auto& field) {
    const auto& member = v.*field.member;
    if constexpr (std::is_floating_point_v<std::decay_t<decltype(member)>>) {
      if (field.unknown_below_zero && member < 0) {
        object[field.key] = nullptr;
        return;
      }
    }
    object[field.key] = write(member);
  });
  return object;
}

Json write(const std::vector<Contention>& pairs) {
  Json list = Json::array();
  for (const Contention& pair : pairs) list.push_back(write(pair));
  return list;
}

Json write(const std::vector<Tier>& tiers) {
  Json list = Json::array();
  for (const Tier& tier : tiers) list.push_back(write(tier));
  return list;
}

Json write(const std::vector<Part>& parts) {
  Json list = Json::array();
  for (const Part& part : parts) list.push_back(write(part));
  return list;
}

// Like dump(2), but what fits in a line stays in one.
void print(const Json& v, int indent, std::string& out) {
  constexpr std::size_t width = 160;
  const std::string flat = v.dump();
  if (!v.is_structured() || v.empty() || flat.size() + static_cast<std::size_t>(indent) <= width) {
    out += flat;
    return;
  }
  const bool object = v.is_object();
  out += object ? '{' : '[';
  bool first = true;
  for (const auto& [key, value] : v.items()) {
    out += first ? "\n" : ",\n";
    first = false;
    out.append(static_cast<std::size_t>(indent) + 2, ' ');
    if (object) out += Json(key).dump() + ": ";
    print(value, indent + 2, out);
  }
  out += '\n';
  out.append(static_cast<std::size_t>(indent), ' ');
  out += object ? '}' : ']';
}

}  // namespace

std::vector<std::pair<std::string, std::string>> checksums(const Plan& plan) {
  std::vector<std::pair<std::string, std::string>> sums;
  const auto add = [&](const char* section, const auto& value) {
    std::uint64_t h = 0xcbf29ce484222325u;  // FNV-1a over the canonical text
    for (unsigned char c : write(value).dump()) h = (h ^ c) * 0x100000001b3u;
    sums.emplace_back(section, fmt::format("{:016x}", h));
  };
  add("model", plan.model);
  add("cluster", plan.cluster);
  add("workload", plan.workload);
  add("strategy", plan.strategy);
  add("prediction", plan.prediction);
  return sums;
}

}  // namespace plan_file

std::string to_json(const Plan& plan) {
  using plan_file::Json;
  Json j;
  j["schema"] = kPlanSchema;
  j["model"] = plan_file::write(plan.model);
  j["cluster"] = plan_file::write(plan.cluster);
  j["workload"] = plan_file::write(plan.workload);
  j["strategy"] = plan_file::write(plan.strategy);
  j["compute_order"] = plan_file::compute_orders(plan);
  j["prediction"] = plan_file::write(plan.prediction);
  j["digest"] = plan.digest;
  Json& sums = j["checksums"] = Json::object();
  for (const auto& [section, sum] : plan_file::checksums(plan)) sums[section] = sum;
  std::string text;
  plan_file::print(j, 0, text);
  return text + "\n";
}

}  // namespace llmplan
