#include "executor/crew.h"

#include "executor/communicator.h"

namespace llmplan {
namespace {

bool followed(const std::exception_ptr& e) {  // from another rank's failure
  try {
    std::rethrow_exception(e);
  } catch (const RunStopped&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

Crew::Crew(int size) : errors_(static_cast<std::size_t>(size)) {
  for (int r = 0; r < size; ++r) threads_.emplace_back([this, r] { serve(r); });
}

Crew::~Crew() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (auto& t : threads_) t.join();
}

void Crew::run(const std::function<void(int)>& job, const std::function<void()>& while_waiting) {
  std::unique_lock lock(mutex_);
  job_ = &job;
  working_ = static_cast<int>(threads_.size());
  ++round_;
  wake_.notify_all();
  while (!done_.wait_for(lock, std::chrono::milliseconds(100), [&] { return working_ == 0; })) {
    lock.unlock();
    while_waiting();
    lock.lock();
  }
  job_ = nullptr;
  std::exception_ptr first, own;
  for (auto& e : errors_) {
    if (!e) continue;
    if (!first) first = e;
    if (!own && !followed(e)) own = e;
    e = nullptr;
  }
  if (first) std::rethrow_exception(own ? own : first);
}

void Crew::serve(int rank) {
  for (std::uint64_t seen = 0;;) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return round_ != seen || closing_; });
    if (round_ == seen) return;
    seen = round_;
    const auto* job = job_;
    lock.unlock();
    std::exception_ptr error;
    try {
      (*job)(rank);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    errors_[static_cast<std::size_t>(rank)] = error;
    if (--working_ == 0) done_.notify_all();
  }
}

}  // namespace llmplan
