// llmplan hardware [NAME]: the devices that llmplan knows, and where their numbers come from.
#include <iostream>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "executor/file.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/table.h"

namespace llmplan::cli {
namespace {

std::string peak_text(const Device& d, DType type) {
  const auto it = d.peak.find(type);
  return it == d.peak.end() ? "n/a" : fmt::format("{:g}", it->second.value / 1e12);
}

Json device_json(const Device& d) {
  Json peak = Json::object();
  for (const auto& [type, rate] : d.peak) peak[std::string(name_of(type))] = rate.value;
  return {{"name", d.name},
          {"cpu", d.cpu},
          {"memory", d.memory.value},
          {"reserve", d.reserve.value},
          {"memory_bandwidth", d.memory_bandwidth.value},
          {"peak_flops", peak},
          {"launch", d.launch.value},
          {"calibrated", !d.measured.empty()}};
}

Exit list(bool json) {
  std::vector<Device> devices = {local_cluster().device};
  for (const std::string& name : device_names()) devices.push_back(read_device(name));
  if (json) {
    Json documents = Json::array();
    for (const Device& d : devices) documents.push_back(device_json(d));
    print_document({{"schema", "llmplan.hardware/1"}, {"devices", documents}});
    return Exit::ok;
  }
  std::vector<std::vector<std::string>> rows;
  for (const Device& d : devices)
    rows.push_back({d.name, bytes_text(d.memory), fmt::format("{:.0f}", d.memory_bandwidth.value / 1e9),
                    peak_text(d, DType::fp32), peak_text(d, DType::bf16), peak_text(d, DType::fp16),
                    peak_text(d, DType::fp8_e4m3)});
  std::cout << table({{"device", Align::left}, {"memory"}, {"GB/s"}, {"fp32 TFLOP/s"}, {"bf16"}, {"fp16"}, {"fp8"}}, rows)
            << fmt::format("\n sources of every number: llmplan hardware NAME   ·   files: {}/hardware_profiles\n",
                           data_directory());
  return Exit::ok;
}

Exit show(const std::string& name, bool json) {
  const Device d = name == "local" ? local_cluster().device : read_device(name);
  if (json) {
    Json document = device_json(d);
    document["schema"] = "llmplan.device/1";
    print_document(document);
    return Exit::ok;
  }
  const Json fields = device_json(d);
  for (const auto& [key, value] : fields.items())
    std::cout << fmt::format(" {:<18} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  // The profile itself is the best account of where its numbers come from.
  const std::string file = data_directory() + "/hardware_profiles/" + name + ".yaml";
  if (name != "local") std::cout << "\n# " << file << '\n' << read_file(name.ends_with(".yaml") ? name : file);
  return Exit::ok;
}

}  // namespace

void add_hardware(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("hardware", "devices that llmplan knows, with their sources");
  auto name = std::make_shared<std::string>();
  sub->add_option("NAME", *name, "show this one's numbers and sources");
  sub->callback([name, sub, &session] {
    session.action = [name, sub, &session] {
      return sub->count("NAME") > 0 ? show(*name, session.json) : list(session.json);
    };
  });
}

}  // namespace llmplan::cli
