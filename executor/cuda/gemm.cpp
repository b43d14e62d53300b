#include "executor/cuda/gemm.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "executor/cuda/gemm_call.h"
#include "executor/cuda/random.h"
#include "executor/cuda/status.h"

namespace llmplan::cuda {
namespace {

cudaDataType_t data_type(DType t) {
  switch (t) {
    case DType::fp32: return CUDA_R_32F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::fp16: return CUDA_R_16F;
    case DType::fp8_e4m3: return CUDA_R_8F_E4M3;
    case DType::fp8_e5m2: return CUDA_R_8F_E5M2;
    default: throw Error("E0510", Exit::environment, fmt::format("no GPU matrix product for {}", name_of(t)),
                         "use --precision bf16 or fp32");
  }
}

// The algorithm as text: cuBLASLt documents cublasLtMatmulAlgo_t as eight opaque words that may be stored.
std::string to_hex(const cublasLtMatmulAlgo_t& algorithm) {
  std::string text;
  for (auto word : algorithm.data) text += fmt::format("{:016x}", word);
  return text;
}
bool from_hex(const std::string& text, cublasLtMatmulAlgo_t& algorithm) {
  if (text.size() != 16 * std::size(algorithm.data)) return false;
  for (std::size_t i = 0; i < std::size(algorithm.data); ++i)
    algorithm.data[i] = std::strtoull(text.substr(16 * i, 16).c_str(), nullptr, 16);
  return true;
}

class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) { check(cudaMalloc(&at_, std::max<std::size_t>(bytes, 16)), "operands for tuning"); }
  ~DeviceMemory() { cudaFree(at_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* get() const { return at_; }

 private:
  void* at_ = nullptr;
};

}  // namespace

std::string key(const Gemm& g) {
  return fmt::format("{}x{}x{} {}{} {} {}{}", g.m, g.n, g.k, g.a_transposed ? 't' : 'n', g.b_transposed ? 't' : 'n',
                     name_of(g.in), name_of(g.out), g.accumulate ? " +" : "");
}

std::string gemm_cache_file(int device) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::filesystem::path base = cache && *cache ? cache : std::string(home && *home ? home : "/tmp") + "/.cache";
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "properties");
  std::string name = properties.name;
  std::replace(name.begin(), name.end(), ' ', '-');
  return (base / "llmplan" / fmt::format("gemm-{}-{}.json", name, cublasLtGetVersion())).string();
}

struct Gemms::Prepared {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  float beta = 0;
  bool scaled = false;
  bool chosen = false;

  ~Prepared() {
    if (result) cublasLtMatrixLayoutDestroy(result);
    if (second) cublasLtMatrixLayoutDestroy(second);
    if (first) cublasLtMatrixLayoutDestroy(first);
    if (operation) cublasLtMatmulDescDestroy(operation);
  }
};

Gemms::Gemms(void* workspace) : workspace_(workspace) { check(cublasLtCreate(&handle_), "create"); }

Gemms::~Gemms() {
  prepared_.clear();
  cublasLtDestroy(handle_);
}

Gemms::Prepared& Gemms::prepare(const Gemm& g) {
  auto& slot = prepared_[key(g)];
  if (slot) return *slot;
  auto p = std::make_unique<Prepared>();
  check(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
  const LtCall call = lt_call(g);
  const cublasOperation_t first = call.transpose_first ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = call.transpose_second ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first), "transpose");
  check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second), "transpose");
  auto layout = [](cublasLtMatrixLayout_t* out, const LtMatrix& m) {
    check(cublasLtMatrixLayoutCreate(out, data_type(m.type), static_cast<std::uint64_t>(m.rows),
                                     static_cast<std::uint64_t>(m.columns), m.leading), "layout");
  };
  layout(&p->first, call.first);
  layout(&p->second, call.second);
  layout(&p->result, call.result);
  p->beta = call.beta;
  p->scaled = call.scaled;
  if (call.scaled) {
    const std::int8_t fast = call.fast_sum ? 1 : 0;
    check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast), "accumulation");
  }
  slot = std::move(p);
  return *slot;
}

void Gemms::tune(const std::vector<Gemm>& shapes, const std::string& cache_file, int candidates) {
  nlohmann::json cache = nlohmann::json::object();
  if (std::ifstream file(cache_file); file) cache = nlohmann::json::parse(file, nullptr, false);
  if (!cache.is_object()) cache = nlohmann::json::object();  // a damaged cache costs time, nothing else
  bool changed = false;

  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "preference");
  std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, void (*)(cublasLtMatmulPreference_t)> owner(
      preference, [](cublasLtMatmulPreference_t p) { cublasLtMatmulPreferenceDestroy(p); });
  std::size_t workspace = kGemmWorkspace;
  check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace), "preference");
  // Split-K partial sums stay in fp32 and are added in a fixed order: neither in place (atomics) nor in bf16.
  std::uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes), "preference");

  for (const Gemm& g : shapes) {
    Prepared& p = prepare(g);
    if (p.chosen) continue;
    std::string name = key(g);
    if (cache.contains(name) && cache[name].is_string() && from_hex(cache[name], p.algorithm)) {
      cublasLtMatmulHeuristicResult_t result{};
      p.chosen = cublasLtMatmulAlgoCheck(handle_, p.operation, p.first, p.second, p.result, p.result, &p.algorithm, &result) ==
                     CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kGemmWorkspace;
      if (p.chosen) continue;
    }
    std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(std::max(candidates, 1)));
    int count = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_, p.operation, p.first, p.second, p.result, p.result, preference,
                                         static_cast<int>(found.size()), found.data(), &count), name.c_str());
    if (count == 0)
      throw Error("E0512", Exit::environment, "cuBLASLt has no algorithm for the product " + name,
                  "dimensions that are multiples of 8 (16 for fp8) always have one");
    p.algorithm = found[0].algo;
    p.chosen = true;
    if (count == 1) continue;

    DeviceMemory factor(sizeof(float)), a(static_cast<std::size_t>(g.m * g.k * size_of(g.in))), b(static_cast<std::size_t>(g.k * g.n * size_of(g.in))),
        c(static_cast<std::size_t>(g.m * g.n * size_of(g.out)));
    fill_random(g.in, g.m * g.k, a.get(), 1, nullptr);
    fill_random(is_fp8(g.in) ? DType::fp8_e4m3 : g.in, g.k * g.n, b.get(), 2, nullptr);
    const float plain = 1;
    check(cudaMemcpy(factor.get(), &plain, sizeof plain, cudaMemcpyHostToDevice), "factor");
    const auto* one = static_cast<const float*>(factor.get());
    fill_random(g.out, g.m * g.n, c.get(), 3, nullptr);
    cudaEvent_t start, stop;
    check(cudaEventCreate(&start), "event");
    check(cudaEventCreate(&stop), "event");
    float best = 1e30f;
    cublasLtMatmulAlgo_t winner = p.algorithm;
    for (int i = 0; i < count; ++i) {
      if (found[static_cast<std::size_t>(i)].state != CUBLAS_STATUS_SUCCESS) continue;
      p.algorithm = found[static_cast<std::size_t>(i)].algo;
      constexpr int kRepeats = 5;
      float fastest = 1e30f;
      for (int r = 0; r < kRepeats + 2; ++r) {  // two to warm up
        check(cudaEventRecord(start, nullptr), "record");
        run(g, a.get(), b.get(), c.get(), nullptr, one, one);
        check(cudaEventRecord(stop, nullptr), "record");
        check(cudaEventSynchronize(stop), "tuning");
        float ms = 0;
        check(cudaEventElapsedTime(&ms, start, stop), "elapsed");
        if (r >= 2) fastest = std::min(fastest, ms);
      }
      if (fastest < best) { best = fastest; winner = p.algorithm; }
    }
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
    p.algorithm = winner;
    cache[name] = to_hex(winner);
    changed = true;
  }
  if (!changed || cache_file.empty()) return;
  std::error_code ignored;  // a cache that cannot be written costs time at the next start, nothing else
  std::filesystem::create_directories(std::filesystem::path(cache_file).parent_path(), ignored);
  std::string temporary = cache_file + ".tmp";
  if (std::ofstream(temporary) << cache.dump(1)) std::filesystem::rename(temporary, cache_file, ignored);
}

void Gemms::run(const Gemm& g, const void* a, const void* b, void* c, cudaStream_t stream, const float* factor_a,
                const float* factor_b) {
  Prepared& p = prepare(g);
  if (!p.chosen) tune({g}, "", 1);
  if (p.scaled) {  // read when the product runs; the descriptor itself only while it is enqueued
    check(cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &factor_b, sizeof factor_b), "factor");
    check(cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &factor_a, sizeof factor_a), "factor");
  }
  const float one = 1;
  check(cublasLtMatmul(handle_, p.operation, &one, b, p.first, a, p.second, &p.beta, c, p.result, c, p.result,
                       &p.algorithm, workspace_, kGemmWorkspace, stream), "matmul");
}

}  // namespace llmplan::cuda
