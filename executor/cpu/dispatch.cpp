// Which instruction set this program uses.
#include <cstdlib>
#include <string>

#include "costmodel/error.h"
#include "executor/cpu/isa/table.h"
#include "executor/cpu/kernels.h"

namespace llmplan::cpu {

namespace generic { extern const KernelTable table; }
#ifdef LLMPLAN_X86
namespace avx2 { extern const KernelTable table; }
namespace avx512 { extern const KernelTable table; }
#endif

const KernelTable* kernels_for(std::string_view name) {
  if (name == "generic") return &generic::table;
#ifdef LLMPLAN_X86
  __builtin_cpu_init();
  if (name == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2::table;
  if (name == "avx512" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return &avx512::table;
#endif
  return nullptr;
}

namespace {

const KernelTable& choose() {
  std::string available;
  const KernelTable* best = nullptr;
  for (const char* name : {"avx512", "avx2", "generic"}) {
    if (const KernelTable* t = kernels_for(name)) {
      if (!best) best = t;
      available += (available.empty() ? "" : ", ") + std::string(name);
    }
  }
  const char* asked = std::getenv("LLMPLAN_ISA");
  if (!asked || !*asked) return *best;
  if (const KernelTable* t = kernels_for(asked)) return *t;
  throw Error("E0511", Exit::environment, "LLMPLAN_ISA=" + std::string(asked) + ": this CPU has no such instruction set",
              "Unset LLMPLAN_ISA, or set it to one of: " + available + ".");
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable& chosen = choose();
  return chosen;
}

std::string_view instruction_set() { return kernels().name; }

}  // namespace llmplan::cpu
