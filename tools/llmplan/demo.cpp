// llmplan demo: the main job from end to end on this machine, with text that is already here.
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>

#include <fmt/format.h>

#include "costmodel/profiles/profiles.h"
#include "executor/file.h"
#include "executor/trainer.h"
#include "tools/llmplan/commands.h"
#include "tools/llmplan/format.h"
#include "tools/llmplan/terminal.h"

namespace llmplan::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kEnough = 200'000, kMost = 2'000'000;  // bytes of text

void append(std::string& text, const fs::path& file) {
  std::error_code error;
  if (fs::is_symlink(file, error) || !fs::is_regular_file(file, error) || fs::file_size(file, error) > 1'000'000) return;
  if (static_cast<std::int64_t>(text.size()) < kMost) text += read_file(file.string()) + "\n";
}

void append_folder(std::string& text, const fs::path& folder, std::initializer_list<const char*> extensions) {
  std::error_code ignored;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());  // the same text on every such machine
  for (const fs::path& f : files)
    if (extensions.size() == 0 ||
        std::any_of(extensions.begin(), extensions.end(), [&](const char* e) { return f.extension() == e; }))
      append(text, f);
}

// Debian's licences; where they are missing, the project's own prose and sources.
std::string find_text(std::string& from) {
  std::string text;
  from = "/usr/share/common-licenses";
  append_folder(text, from, {});
  if (static_cast<std::int64_t>(text.size()) >= kEnough) return text;
  from = text.empty() ? data_directory() : from + " and " + data_directory();
  const fs::path source = data_directory();
  for (const char* file : {"LICENSE", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"}) append(text, source / file);
  append_folder(text, source / "docs", {".md"});
  append_folder(text, source / "models", {".yaml"});
  for (const char* folder : {"costmodel", "planner", "executor", "tools/llmplan"})
    append_folder(text, source / folder, {".h", ".cpp"});
  return text;
}

// With --json stdout holds the report's document alone: everything before goes to stderr.
class StdoutToStderr {
 public:
  explicit StdoutToStderr(bool active) : saved_(active ? std::cout.rdbuf(std::cerr.rdbuf()) : nullptr) {}
  ~StdoutToStderr() {
    if (saved_ != nullptr) std::cout.rdbuf(saved_);
  }
  StdoutToStderr(const StdoutToStderr&) = delete;
  StdoutToStderr& operator=(const StdoutToStderr&) = delete;

 private:
  std::streambuf* saved_;
};

struct Step { const char* why; std::vector<std::string> command; };

std::string typed(const std::vector<std::string>& words) {
  std::string line = "llmplan";
  for (const std::string& w : words) line += w.find(' ') == std::string::npos ? " " + w : " '" + w + "'";
  return line;
}

Exit demo(Session& session, const std::string& directory, const std::string& steps) {
  std::string from;
  const std::string text = find_text(from);
  if (static_cast<std::int64_t>(text.size()) < 20'000)
    throw Error("E0404", Exit::data, "found no text to train on in /usr/share/common-licenses or in the project",
                "train on a file of your own: llmplan tune tiny-1m, then llmplan run plan.json --data FILE");
  make_directory(directory);
  const std::string data = directory + "/text.txt", plan = directory + "/plan.json", out = directory + "/run";
  write_file(data, text);
  std::error_code ignored;
  fs::remove_all(out, ignored);  // of an earlier demo
  std::cerr << fmt::format("demo in {}: {} KB of text from {}\n", directory, grouped(static_cast<std::int64_t>(text.size()) / 1000), from);

  const std::vector<std::string> workload = {"--seq", "256", "--global-batch", "16"};
  const auto with = [&](std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Step list[] = {
      {"1  What would training cost here?", with({"estimate", "tiny-1m"}, workload)},
      {"2  Which strategy is best?", with({"tune", "tiny-1m", "-o", plan, "--lr", "3e-3"}, workload)},
      {"3  Train it", with({"run", plan, "--data", data, "--out", out, "--steps", steps}, {})},
      {"4  The report again: predicted beside measured", with({"report", out}, {})}};
  auto redirected = std::make_optional<StdoutToStderr>(session.json);
  for (const Step& step : list) {
    std::cerr << fmt::format("\n{}\n$ {}\n", styled(Output::err, Style::bold, step.why), typed(step.command)) << std::flush;
    const Exit exit = session.dispatch(step.command);
    if (exit != Exit::ok) return exit;
  }
  const RunReport report = report_from_json(read_file(out + "/report.json"), out + "/report.json");
  std::cerr << fmt::format("\nThe loss fell from {:.2f} to {:.2f}, held-out {:.2f} nats per byte.\n", report.first_loss, report.last_loss, report.held_out_loss)
            << fmt::format("Try next, on a text of your own:\n  llmplan tune tiny-9m --seq 512 -o plan.json\n"
                           "  llmplan run plan.json --data FILE --steps 200 --out runs/mine\n"
                           "or measure this machine, so that predictions are its own:  llmplan calibrate\n");
  redirected.reset();
  if (session.json) std::cout << to_json(report) << '\n';
  if (report.last_loss < report.first_loss) return Exit::ok;
  throw Error("E0702", Exit::non_finite, "the demo's loss did not fall", "please report this with the output of `llmplan env`");
}

}  // namespace

void add_demo(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("demo", "estimate, tune, run and report on this machine, in a few minutes");
  auto directory = std::make_shared<std::string>("runs/demo");
  auto steps = std::make_shared<std::string>("200");
  sub->add_option("--out", *directory, "directory for everything it writes (default: runs/demo)")->type_name("DIR");
  sub->add_option("--steps", *steps, "training steps (default: 200)")->type_name("N");
  sub->callback([=, &session] {
    session.action = [=, &session] { return demo(session, *directory, *steps); };
  });
}

}  // namespace llmplan::cli
