// How a kernel body sees its thread block. Every kernel is a struct of arguments with
//
//     Launch launch() const;                       // geometry
//     template <class Block> void operator()(Block& block) const;   // what one thread does
//
// DeviceBlock (here, under nvcc) maps the block's verbs to CUDA; EmulatedBlock (emulate.h) runs the same
// body on the host, thread by thread, so that geometry, indexing and algorithm are tested without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "executor/cuda/scalar.h"

namespace llmplan::cuda {

struct Launch {
  std::int64_t blocks = 0;       // one-dimensional; at most 2^31 − 1
  int threads = 0;               // multiple of 32
  std::size_t shared_bytes = 0;  // dynamic shared memory
};

inline constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;
LLMPLAN_HD constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Fragments of mma.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16"), with g = lane / 4, t = lane mod 4:
//   a: rows g, g+8; columns 2t, 2t+1, 2t+8, 2t+9  → {a[g][2t..], a[g+8][2t..], a[g][2t+8..], a[g+8][2t+8..]}
//   b: column g; rows 2t, 2t+1 and 2t+8, 2t+9      → {b[2t..][g], b[2t+8..][g]}
//   c: {c[g][2t], c[g][2t+1], c[g+8][2t], c[g+8][2t+1]}
struct FragmentA { std::uint32_t r[4]; };
struct FragmentB { std::uint32_t r[2]; };
struct FragmentC { float r[4]; };

template <class T>  // BFloat16 or Float16
LLMPLAN_HD std::uint32_t pack(float low, float high) {
  return static_cast<std::uint32_t>(from_float<T>(low).bits) | static_cast<std::uint32_t>(from_float<T>(high).bits) << 16;
}

#ifdef __CUDACC__
struct DeviceBlock {
  __device__ std::int64_t index() const { return blockIdx.x; }
  __device__ int thread() const { return threadIdx.x; }
  __device__ int threads() const { return blockDim.x; }
  __device__ int lane() const { return threadIdx.x & 31; }
  __device__ int warp() const { return threadIdx.x >> 5; }
  __device__ void sync() { __syncthreads(); }
  template <class T> __device__ T* shared(std::size_t offset = 0) {
    extern __shared__ __align__(16) unsigned char memory[];
    return reinterpret_cast<T*>(memory + offset);
  }
  template <class T> __device__ T shuffle_xor(T v, int mask) { return __shfl_xor_sync(~0u, v, mask); }
  // Four 8×8 tiles of 16-bit elements; lane l supplies the address of row l mod 8 of tile l / 8.
  __device__ void load_matrix_x4(std::uint32_t (&r)[4], const void* row) {
    auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
  }
  __device__ void load_matrix_x4_transposed(std::uint32_t (&r)[4], const void* row) {
    auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
  }
  template <class T>
  __device__ void mma(FragmentC& c, const FragmentA& a, std::uint32_t b0, std::uint32_t b1) {
    if constexpr (is_bfloat16<T>)
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                   "{%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
                   : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b0), "r"(b1));
    else
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                   "{%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
                   : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b0), "r"(b1));
  }
  // Copies 16 bytes from global to shared memory, asynchronously; zeros where `valid` is false.
  __device__ void copy16(void* to, const void* from, bool valid) {
    auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes));
  }
  __device__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
  // Waits until at most `Pending` committed groups of this thread are still under way.
  template <int Pending> __device__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending));
  }
};

template <class Kernel>
__global__ void run_kernel(Kernel kernel) {
  DeviceBlock block;
  kernel(block);
}
#endif

// Sum and maximum over a block, the same bits on every thread and for every run: butterflies inside the
// warps, then the warps' results in order. `scratch` holds one float per warp.
template <class Block>
LLMPLAN_HD float block_sum(Block& block, float v, float* scratch) {
  for (int mask = 16; mask > 0; mask >>= 1) v += block.shuffle_xor(v, mask);
  block.sync();  // scratch may still be read from the last reduction
  if (block.lane() == 0) scratch[block.warp()] = v;
  block.sync();
  float sum = 0;
  for (int w = 0; w < block.threads() / 32; ++w) sum += scratch[w];
  return sum;
}
template <class Block>
LLMPLAN_HD float block_max(Block& block, float v, float* scratch) {
  for (int mask = 16; mask > 0; mask >>= 1) {
    float other = block.shuffle_xor(v, mask);
    v = v > other ? v : other;
  }
  block.sync();
  if (block.lane() == 0) scratch[block.warp()] = v;
  block.sync();
  float best = scratch[0];
  for (int w = 1; w < block.threads() / 32; ++w) best = best > scratch[w] ? best : scratch[w];
  return best;
}

}  // namespace llmplan::cuda
