#include "tools/llmplan/progress.h"

#include <algorithm>
#include <cmath>
#include <iostream>

#include <fmt/format.h>

#include "tools/llmplan/format.h"
#include "tools/llmplan/table.h"
#include "tools/llmplan/terminal.h"

namespace llmplan::cli {

std::string bar_line(const StepMetrics& m, std::int64_t steps, Seconds left, int width) {
  const double done = steps > 0 ? static_cast<double>(m.step) / static_cast<double>(steps) : 1;
  std::string tail = fmt::format(" {:3.0f} %  loss {:.4f}  |g| {:.3g}  lr {:.2e}  {} tok/s  {:.3g} TFLOP/s  eta {}",
                                 100 * done, m.loss, m.grad_norm, m.lr, short_rate(m.tokens_per_s),
                                 m.tflops_per_device, clock_text(left));
  if (m.held_out_loss >= 0) tail += fmt::format("  held-out {:.4f}", m.held_out_loss);
  const std::string head = fmt::format("step {}/{} ", m.step, steps);
  const int room = std::clamp(width - 1 - display_width(head) - display_width(tail), 0, 30);
  const int full = static_cast<int>(std::lround(done * room));
  std::string line = head + std::string(static_cast<std::size_t>(full), '#') +
                     std::string(static_cast<std::size_t>(room - full), '-') + tail;
  if (static_cast<int>(line.size()) > width - 1) line.resize(static_cast<std::size_t>(std::max(1, width - 1)));
  return line;
}

std::string log_line(const StepMetrics& m, std::int64_t steps, Seconds left) {
  std::string line = fmt::format(
      "step={}/{} loss={:.4f} grad_norm={:.4g} lr={:.3e} tok_s={:.0f} tflops={:.4g} mfu={} mem_mib={:.0f} eta={:.0f}s",
      m.step, steps, m.loss, m.grad_norm, m.lr, m.tokens_per_s, m.tflops_per_device,
      m.mfu < 0 ? "n/a" : fmt::format("{:.4f}", m.mfu), static_cast<double>(m.memory.value) / (1 << 20), left.value);
  if (m.held_out_loss >= 0) line += fmt::format(" held_out_loss={:.4f}", m.held_out_loss);
  return line;
}

ProgressBar::ProgressBar(std::int64_t steps, std::int64_t log_every)
    : steps_(steps), log_every_(std::max<std::int64_t>(1, log_every)), terminal_(is_terminal(Output::err)) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::cerr << '\n';
}

void ProgressBar::update(const StepMetrics& m) {
  const auto now = Clock::now();
  if (first_ < 0) {  // the first step tells when this run began, which may be in the middle
    first_ = m.step - 1;
    begun_ = now - std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(m.step_s));
  }
  const double per_step = std::chrono::duration<double>(now - begun_).count() / static_cast<double>(m.step - first_);
  const Seconds left{per_step * static_cast<double>(steps_ - m.step)};
  const bool last = m.step >= steps_;
  if (terminal_) {
    if (drawn_ && !last && now - drawn_at_ < std::chrono::milliseconds(100)) return;
    std::cerr << "\r\x1b[K" << bar_line(m, steps_, left, width(Output::err)) << std::flush;
    drawn_ = true;
    drawn_at_ = now;
  } else if (m.step % log_every_ == 0 || last || m.step - 1 == first_ || m.held_out_loss >= 0) {
    std::cerr << log_line(m, steps_, left) << std::endl;
  }
}

}  // namespace llmplan::cli
