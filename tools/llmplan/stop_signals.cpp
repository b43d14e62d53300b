#include "tools/llmplan/stop_signals.h"

#include <unistd.h>

#include <cstring>

namespace llmplan::cli {
namespace {

std::atomic<int> g_requested{0};                // a handler can reach nothing but globals
std::atomic<const char*> g_first_message{""};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<const char*>::is_always_lock_free);

extern "C" void on_stop_signal(int) {
  const int times = g_requested.fetch_add(1) + 1;
  if (times >= 3) _exit(130);  // 128 + SIGINT: whoever should have looked did not
  const char* text = times == 1 ? g_first_message.load() : "quitting now\n";
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, "\n", 1);
  ignored = write(STDERR_FILENO, text, std::strlen(text));
}

}  // namespace

StopSignals::StopSignals(const char* what_happens) {
  g_requested = 0;
  g_first_message = what_happens;
  struct sigaction action{};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &old_int_);
  sigaction(SIGTERM, &action, &old_term_);
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, &old_pipe_);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &old_int_, nullptr);
  sigaction(SIGTERM, &old_term_, nullptr);
  sigaction(SIGPIPE, &old_pipe_, nullptr);
}

const std::atomic<int>* StopSignals::requested() const { return &g_requested; }

}  // namespace llmplan::cli
