// report.json: predicted beside measured. Scripts rely on the names of its fields.
#include <nlohmann/json.hpp>

#include "costmodel/error.h"
#include "executor/trainer.h"

namespace llmplan {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kSchema = "llmplan.report/1";

Json rate(double v) { return v >= 0 ? Json(v) : Json(nullptr); }
double rate(const Json& v) { return v.is_number() ? v.get<double>() : -1; }

Json prediction(const Prediction& p) {
  return {{"step", p.step.value}, {"tokens_per_s", p.tokens_per_s}, {"tflops_per_device", p.tflops_per_device},
          {"mfu", rate(p.mfu)}, {"arena_bytes", p.arena.value}, {"peak_memory", p.peak_memory.value}};
}
Prediction prediction(const Json& j) {
  return {{j.at("step").get<double>()}, j.at("tokens_per_s").get<double>(), j.at("tflops_per_device").get<double>(),
          rate(j.at("mfu")), {j.at("arena_bytes").get<std::int64_t>()}, {j.at("peak_memory").get<std::int64_t>()}};
}

Json placement(const RankSetup& s) {
  const std::string warning = caution(s);
  return {{"ranks", s.ranks}, {"communicator", s.communicator}, {"device", s.device}, {"cpu", s.cpu}, {"devices", s.devices},
          {"ranks_on_devices", s.ranks_on_devices}, {"caution", warning.empty() ? Json(nullptr) : Json(warning)}};
}
RankSetup placement(const Json& j) {
  return {j.at("ranks").get<int>(), j.at("communicator").get<std::string>(), j.at("device").get<std::string>(), j.at("cpu").get<bool>(),
          j.at("devices").get<int>(), j.at("ranks_on_devices").get<int>()};
}

}  // namespace

std::string to_json(const RunReport& r) {
  Json predicted = prediction(r.predicted), measured = prediction(r.measured), error;
  for (auto& [key, value] : predicted.items())  // predicted / measured − 1
    if (value.is_number() && measured[key].is_number() && measured[key].get<double>() != 0)
      error[key] = value.get<double>() / measured[key].get<double>() - 1;
    else
      error[key] = nullptr;
  measured["p5_step"] = r.p5_step.value;
  measured["p95_step"] = r.p95_step.value;
  Json per_op = Json::array();
  for (auto& k : r.per_op) per_op.push_back({{"kind", k.kind}, {"predicted", k.predicted.value}, {"measured", k.measured.value}});
  Json json = {{"schema", kSchema},
               {"plan_digest", r.plan_digest},
               {"predicted", predicted},
               {"measured", measured},
               {"error", error},
               {"per_op", per_op},
               {"loss", {{"first", r.first_loss}, {"last", r.last_loss}, {"held_out", rate(r.held_out_loss)}}},
               {"steps", r.steps},
               {"tokens", r.tokens},
               {"memory", {{"ranks", r.ranks}, {"arenas", r.arenas.value}, {"process_peak", r.process_peak.value},
                           {"reserve", r.reserve.value}}},
               {"device", r.device},
               {"placement", r.setup.device.empty() ? Json(nullptr) : placement(r.setup)},
               {"versions", r.versions},
               {"stopped", r.stopped}};
  return json.dump(2);
}

RunReport report_from_json(const std::string& text, const std::string& file) {
  try {
    Json j = Json::parse(text);
    if (j.at("schema") != kSchema)
      throw Error("E0409", Exit::data, file + " has the schema " + j.at("schema").dump() + ", not " + kSchema,
                  "it was written by another version: run the plan again");
    RunReport r;
    r.plan_digest = j.at("plan_digest").get<std::string>();
    r.predicted = prediction(j.at("predicted"));
    r.measured = prediction(j.at("measured"));
    r.p5_step = {j.at("measured").at("p5_step").get<double>()};
    r.p95_step = {j.at("measured").at("p95_step").get<double>()};
    for (auto& k : j.at("per_op"))
      r.per_op.push_back({k.at("kind").get<std::string>(), {k.at("predicted").get<double>()}, {k.at("measured").get<double>()}});
    r.first_loss = j.at("loss").at("first").get<double>();
    r.last_loss = j.at("loss").at("last").get<double>();
    r.held_out_loss = rate(j.at("loss").at("held_out"));
    r.steps = j.at("steps").get<std::int64_t>();
    r.tokens = j.at("tokens").get<std::int64_t>();
    const Json& memory = j.at("memory");
    r.ranks = memory.at("ranks").get<int>();
    r.arenas = {memory.at("arenas").get<std::int64_t>()};
    r.process_peak = {memory.at("process_peak").get<std::int64_t>()};
    r.reserve = {memory.at("reserve").get<std::int64_t>()};
    r.device = j.at("device").get<std::string>();
    if (j.contains("placement") && !j.at("placement").is_null()) r.setup = placement(j.at("placement"));  // not in reports of earlier versions
    r.versions = j.at("versions").get<std::map<std::string, std::string>>();
    r.stopped = j.at("stopped").get<bool>();
    return r;
  } catch (const nlohmann::json::exception& e) {
    throw Error("E0409", Exit::data, file + " is not a run report: " + e.what(),
                "the run writes report.json when it ends; run it again, or with --resume to its end");
  }
}

}  // namespace llmplan
