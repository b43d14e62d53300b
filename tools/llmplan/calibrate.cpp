// llmplan calibrate: measures this machine, so that predictions are its own.
#include <chrono>
#include <filesystem>
#include <iostream>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "executor/calibrate.h"
#include "executor/file.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/documents.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/plan_io.h"
#include "tools/llmplan/stop_signals.h"
#include "tools/llmplan/strategy_fields.h"
#include "tools/llmplan/terminal.h"

namespace llmplan::cli {
namespace {

void show_progress(const std::string& part, double fraction) {
  const int percent = static_cast<int>(100 * std::min(1.0, fraction));
  if (!is_terminal(Output::err)) {
    std::cerr << fmt::format("calibrate={}% part=\"{}\"\n", percent, part);
    return;
  }
  const int full = percent * 30 / 100;
  std::cerr << fmt::format("\r\x1b[K{}{} {:3} %  {}", std::string(static_cast<std::size_t>(full), '#'),
                           std::string(static_cast<std::size_t>(30 - full), '-'), percent, part)
            << std::flush;
}

// What a GPU reached at best: its peak and bandwidth stay those of its profile.
std::string best_rates(const Device& device) {
  double product = 0, memory = 0;
  for (const MeasuredOp& m : device.measured) {
    if (std::holds_alternative<Gemm>(m.op)) product = std::max(product, flops(m.op).value / m.time.value);
    if (std::holds_alternative<AdamW>(m.op)) memory = std::max(memory, static_cast<double>(bytes_moved(m.op).value) / m.time.value);
  }
  return fmt::format("; best GEMM {:.0f} TFLOP/s; memory {:.0f} GB/s; {:.1f} us between ops", product / 1e12, memory / 1e9,
                     device.launch.value * 1e6);
}

// "matrix work takes 1.12 times as long beside a collective", one line per pair.
std::string side_by_side(const Device& device) {
  std::string text;
  for (const Contention& c : device.contention)
    text += fmt::format("  side by side: {} work takes {:.2f} times as long beside {}\n", name_of(c.work), c.slowdown,
                        c.beside >= OpClass::collective ? fmt::format("a {}", name_of(c.beside)) : fmt::format("{} work", name_of(c.beside)));
  return text;
}

Exit calibrate_here(std::string file, const std::string& seconds, bool json) {
  if (file.empty()) {
    file = calibration_path();
    make_directory(std::filesystem::path(file).parent_path().string());
  }
  CalibrationOptions options;
  options.seconds = read_real("--seconds", seconds, 1, 3600);
  options.progress = show_progress;
  const Cluster local = local_cluster();
  std::cerr << fmt::format("measuring {}: {} {}; other programs should be quiet\n", local.device.name,
                           local.device.cpu ? local.device.cores : local.devices_per_node, local.device.cpu ? "cores" : "GPU(s)");
  const auto begun = std::chrono::steady_clock::now();
  Device device;
  {
    const StopSignals signals("stopping; nothing is written\n");
    options.stop = signals.requested();
    device = calibrate(local, options);
  }
  if (is_terminal(Output::err)) std::cerr << '\n';
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  write_output(file, calibration_to_yaml(device));
  const auto peak = device.peak.find(DType::fp32);
  Json pairs = Json::array();
  for (const Contention& c : device.contention)
    pairs.push_back({{"work", name_of(c.work)}, {"beside", name_of(c.beside)}, {"slowdown", c.slowdown}});
  if (json) {
    print_document({{"schema", "llmplan.calibrate/1"},
                    {"file", file},
                    {"device", device.name},
                    {"ops", device.measured.size()},
                    {"peak_flops", peak == device.peak.end() ? Json(nullptr) : Json(peak->second.value)},
                    {"memory_bandwidth", device.memory_bandwidth.value},
                    {"contention", pairs},
                    {"seconds", took}});
    return Exit::ok;
  }
  std::cout << fmt::format("measured {} ops in {}", device.measured.size(), duration_text({took}));
  if (device.cpu && peak != device.peak.end()) std::cout << fmt::format("; best fp32 GEMM {:.1f} GFLOP/s per core", peak->second.value / 1e9);
  if (device.cpu) std::cout << fmt::format("; memory {:.1f} GB/s", device.memory_bandwidth.value / 1e9);
  else std::cout << best_rates(device);
  std::cout << '\n' << side_by_side(device) << fmt::format("wrote {}\n", file)
            << (file == calibration_path() ? "`--cluster local` uses it from now on; plans made before keep their old predictions\n"
                                           : "use it by moving it to " + calibration_path() + "\n");
  return Exit::ok;
}

}  // namespace

void add_calibrate(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("calibrate", "measure this machine's ops, so that predictions are its own");
  auto file = std::make_shared<std::string>();
  auto seconds = std::make_shared<std::string>("50");
  sub->add_option("-o,--out", *file, "where to write (default: where --cluster local looks)")->type_name("FILE");
  sub->add_option("--seconds", *seconds, "about how long to measure (default: 50)")->type_name("S");
  sub->callback([file, seconds, &session] {
    session.action = [file, seconds, &session] { return calibrate_here(*file, *seconds, session.json); };
  });
}

}  // namespace llmplan::cli
