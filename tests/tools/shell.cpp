#include "tests/tools/shell.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace llmplan {
namespace fs = std::filesystem;
namespace {

struct Root {
  fs::path path;
  Root() {
    std::string pattern = (fs::temp_directory_path() / "llmplan tools XXXXXX").string();  // a space on purpose
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path = pattern;
  }
  ~Root() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};
const fs::path& root() {
  static const Root r;
  return r.path;
}

}  // namespace

std::string scratch(const std::string& name) {
  const fs::path path = root() / name;
  fs::remove_all(path);
  fs::create_directories(path);
  return path.string();
}

std::string file_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

ShellResult sh(const std::string& command, const std::string& directory) {
  static int count = 0;
  const fs::path base = root() / ("output" + std::to_string(++count));
  const std::string out = base.string() + ".out", err = base.string() + ".err";
  const auto begun = std::chrono::steady_clock::now();
  const pid_t child = fork();
  if (child == 0) {
    const int in = open("/dev/null", O_RDONLY);
    const int o = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int e = open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (in < 0 || o < 0 || e < 0 || chdir(directory.c_str()) != 0) _exit(126);
    dup2(in, 0);
    dup2(o, 1);
    dup2(e, 2);
    setenv("LLMPLAN", LLMPLAN_BINARY, 1);
    setenv("SOURCE", LLMPLAN_SOURCE_DIR, 1);
    // The calibration of the machine at hand must not change what a test sees.
    setenv("XDG_CACHE_HOME", (root() / "cache").c_str(), 1);
    for (const char* name : {"RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "LLMPLAN_DATA"}) unsetenv(name);
    execl("/bin/bash", "bash", "-c", command.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ShellResult r;
  r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  r.exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  r.out = file_text(out);
  r.err = file_text(err);
  return r;
}

}  // namespace llmplan
