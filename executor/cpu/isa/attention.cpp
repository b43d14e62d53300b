// Attention without a score matrix in memory (Dao et al., arXiv:2205.14135; order of the backward loops
// after arXiv:2307.08691): blocks of 64 queries against blocks of 64 keys, blocks above the diagonal
// skipped. Exponentials are of base 2: the scale log2(e)/sqrt(head_dim) is folded into q.
#include "executor/cpu/isa/entries.h"
#include "executor/cpu/isa/micro_gemm.h"

namespace llmplan::cpu::LLMPLAN_ISA {
namespace {

constexpr i64 kBlock = kAttentionBlock;
constexpr float kLowest = -3e38f;  // below every score
constexpr i64 kScorePitch = kBlock + 16;

i64 padded(i64 head_dim) { return (head_dim + kLanes - 1) / kLanes * kLanes; }
i64 blocks(i64 seq) { return (seq + kBlock - 1) / kBlock; }

// Copies rows [begin, end) of one head, times `scale`, zero-padded to `pitch` columns.
void copy_rows(const float* from, i64 stride, i64 begin, i64 end, i64 d, float scale, float* to, i64 pitch) {
  for (i64 t = begin; t < end; ++t, to += pitch) {
    for_columns(d, [&](i64 i, i64 n, bool part) {
      store(to + i, load(from + t * stride + i, n, part) * scale);  // a part's rest is zero
    });
  }
}

struct Heads {  // where the heads of one (sequence, kv head) lie in a packed qkv
  i64 stride, group, d, seq;
  i64 q, k, v;  // first element of the first q head, of k and of v
};
template <class Op>
Heads heads_of(const Op& op, const AttentionRange& range) {
  const i64 d = op.head_dim, stride = (op.heads + 2 * op.kv_heads) * d, group = op.heads / op.kv_heads;
  const i64 row = range.batch * op.seq * stride;
  return {stride, group, d, op.seq, row + range.kv_head * group * d, row + (op.heads + range.kv_head) * d,
          row + (op.heads + op.kv_heads + range.kv_head) * d};
}

// Keys that query `row` sees in the block that begins at key k0.
i64 visible(bool causal, i64 seq, i64 row, i64 k0) {
  const i64 end = causal ? min(seq, row + 1) : seq;
  return max(0, min(kBlock, end - k0));
}

// Of the same block, how many keys lie before the row's document. `starts`: of the sequence's rows, or null.
i64 hidden(const std::int32_t* starts, i64 row, i64 k0) { return starts ? min(kBlock, max(0, starts[row] - k0)) : 0; }
// The first block that rows from `row` on see: documents follow one another.
i64 first_block(const std::int32_t* starts, i64 row) { return starts ? starts[row] / kBlock : 0; }

// Block j of keys, transposed: to[j][d][kBlock], columns past the sequence zero.
void transpose_keys(const float* from, i64 stride, i64 seq, i64 d, i64 block_begin, i64 block_end, float* to) {
  for (i64 j = block_begin; j < block_end; ++j, to += d * kBlock) {
    const i64 n = min(kBlock, seq - j * kBlock);
    if (n < kBlock)
      for (i64 i = 0; i < d * kBlock; ++i) to[i] = 0;
    transpose(from + j * kBlock * stride, stride, n, d, to, kBlock);
  }
}

// Scores s of a block of keys become 2^(s − the row's maximum so far); what was summed under a smaller
// maximum, in `total` and `o`, shrinks to match.
void softmax_block(bool causal, const std::int32_t* starts, bool first, i64 rows, i64 seq, i64 r0, i64 k0, float* s, float* now,
                   float* biggest, float* total, float* o, i64 dp) {
  const bool whole = visible(causal, seq, r0, k0) == kBlock;
  for (i64 i = 0; i < rows; ++i) {
    float* p = s + i * kScorePitch;
    for (i64 j = 0, end = hidden(starts, r0 + i, k0); j < end; ++j) p[j] = -kInf;
    if (!whole)
      for (i64 j = visible(causal, seq, r0 + i, k0); j < kBlock; ++j) p[j] = -kInf;
    Vec m = load(p);
#pragma GCC unroll 4
    for (i64 j = kLanes; j < kBlock; j += kLanes) m = max(load(p + j), m);
    now[i] = max_lane(m);
  }
  for (i64 i = rows; i < kBlock; ++i) now[i] = biggest[i];
  Vec changed{};
  for (i64 i = 0; i < kBlock; i += kLanes) {
    const Vec before = load(biggest + i), m = max(before, load(now + i));
    // A row without a key yet has before = kLowest, not −inf: 2^(−inf + inf) would not be a number.
    const Vec shrink = exp2(before - m);
    store(biggest + i, m);
    store(now + i, shrink);
    changed += 1.0f - shrink;
  }
  if (!first && sum(changed) != 0)
    for (i64 i = 0; i < rows; ++i) {
      if (now[i] == 1.0f) continue;
      store(total + i * kLanes, load(total + i * kLanes) * now[i]);
      for (i64 j = 0; j < dp; j += kLanes) store(o + i * dp + j, load(o + i * dp + j) * now[i]);
    }
  for (i64 i = 0; i < rows; ++i) {
    float* p = s + i * kScorePitch;
    Vec sums = load(total + i * kLanes);
#pragma GCC unroll 4
    for (i64 j = 0; j < kBlock; j += kLanes) {
      const Vec e = exp2(load(p + j) - biggest[i]);
      store(p + j, e);
      sums += e;
    }
    store(total + i * kLanes, sums);
  }
}

}  // namespace

i64 attention_scratch(i64 seq, i64 head_dim) {
  const i64 dp = padded(head_dim);
  return blocks(seq) * kBlock * (head_dim + dp) + kBlock * (2 * dp + kScorePitch + 2 + kLanes);
}

void attention(const Attention& op, const AttentionRange& range, const float* qkv, const std::int32_t* starts, float* out,
               float* lse, float* scratch) {
  const Heads at = heads_of(op, range);
  const i64 d = at.d, dp = padded(d), seq = op.seq;
  const i64 keys = op.causal ? range.row_end : seq, key_blocks = blocks(keys);
  float* kt = scratch;
  float* v = kt + blocks(seq) * kBlock * d;
  float* q = v + blocks(seq) * kBlock * dp;
  float* o = q + kBlock * dp;
  float* s = o + kBlock * dp;
  float* biggest = s + kBlock * kScorePitch;
  float* now = biggest + kBlock;
  float* total = now + kBlock;            // [kBlock][kLanes]: a row's sum, not yet folded
  const float scale = kLog2e / __builtin_sqrtf(static_cast<float>(d));

  if (starts) starts += range.batch * seq;
  const i64 unseen = range.row_begin < range.row_end ? first_block(starts, range.row_begin) : 0;
  transpose_keys(qkv + at.k, at.stride, keys, d, unseen, key_blocks, kt + unseen * kBlock * d);
  copy_rows(qkv + at.v, at.stride, unseen * kBlock, keys, d, 1, v + unseen * kBlock * dp, dp);

  for (i64 g = 0; g < at.group; ++g) {
    const i64 head = range.kv_head * at.group + g;
    for (i64 r0 = range.row_begin; r0 < range.row_end; r0 += kBlock) {
      const i64 rows = min(kBlock, range.row_end - r0);
      copy_rows(qkv + at.q + g * d, at.stride, r0, r0 + rows, d, scale, q, dp);
      for (i64 i = 0; i < kBlock; ++i) biggest[i] = i < rows ? kLowest : 0;
      for (i64 i = 0; i < kBlock * kLanes; ++i) total[i] = 0;
      const i64 end = op.causal ? r0 + rows : seq;
      const i64 begin = first_block(starts, r0) * kBlock;
      for (i64 k0 = begin; k0 < end; k0 += kBlock) {
        const bool diagonal = op.causal && k0 == r0;
        block_gemm<A::rows>(diagonal ? Skip::upper_c : Skip::nothing, rows, kBlock, d, q, dp, kt + k0 * d, kBlock, s, kScorePitch, false);
        softmax_block(op.causal, starts, k0 == begin, rows, seq, r0, k0, s, now, biggest, total, o, dp);
        block_gemm<A::rows>(diagonal ? Skip::upper_a : Skip::nothing, rows, dp, min(kBlock, keys - k0), s, kScorePitch, v + k0 * dp, dp, o, dp, k0 > begin);
      }
      for (i64 i = 0; i < rows; ++i) {
        const float row_total = sum(load(total + i * kLanes)), inverse = 1.0f / row_total;
        float* to = out + ((range.batch * seq + r0 + i) * op.heads + head) * d;
        for_columns(d, [&](i64 j, i64 n, bool part) { store(to + j, load(o + i * dp + j) * inverse, n, part); });
        lse[(range.batch * op.heads + head) * seq + r0 + i] = biggest[i] * kLn2 + __builtin_logf(row_total);
      }
    }
  }
}

void attention_delta(const AttentionGrad& op, const AttentionRange& range, const float* out, const float* dout,
                     float* delta) {
  const i64 d = op.head_dim, group = op.heads / op.kv_heads;
  for (i64 g = 0; g < group; ++g) {
    const i64 head = range.kv_head * group + g;
    for (i64 t = range.row_begin; t < range.row_end; ++t) {
      const i64 at = ((range.batch * op.seq + t) * op.heads + head) * d;
      Vec s{};
      for_columns(d, [&](i64 i, i64 n, bool part) { s += load(out + at + i, n, part) * load(dout + at + i, n, part); });
      delta[(range.batch * op.heads + head) * op.seq + t] = sum(s);
    }
  }
}

i64 attention_grad_scratch(i64 seq, i64 head_dim) {
  const i64 dp = padded(head_dim), rows = blocks(seq) * kBlock;
  return rows * (2 * head_dim + 3 * dp) + kBlock * (3 * dp + 2 * kScorePitch);
}

void attention_grad(const AttentionGrad& op, const AttentionRange& range, bool dq, bool dkv, const float* qkv,
                    const std::int32_t* starts, const float* lse, const float* dout, const float* delta, float* dqkv, float* scratch) {
  const Heads at = heads_of(op, range);
  const i64 d = at.d, dp = padded(d), seq = op.seq, padded_seq = blocks(seq) * kBlock;
  const i64 all = blocks(seq), range_begin = range.row_begin / kBlock, range_end = blocks(range.row_end);
  // Blocks of queries and of keys that this call needs.
  const i64 query_begin = dkv ? (op.causal ? range_begin : 0) : range_begin;
  const i64 query_end = dkv ? all : range_end;
  const i64 key_begin = dq ? 0 : range_begin;
  const i64 key_end = dq ? (op.causal ? range_end : all) : range_end;

  float* kt = scratch;                    // [blocks][d][kBlock]
  float* vt = kt + padded_seq * d;
  float* k = vt + padded_seq * d;         // [seq][dp]
  float* dk = k + padded_seq * dp;
  float* dv = dk + padded_seq * dp;
  float* q = dv + padded_seq * dp;        // [kBlock][dp]
  float* go = q + kBlock * dp;
  float* gq = go + kBlock * dp;
  float* p = gq + kBlock * dp;            // [kBlock][kScorePitch]
  float* gp = p + kBlock * kScorePitch;
  const float root = 1.0f / __builtin_sqrtf(static_cast<float>(d));

  if (starts) starts += range.batch * seq;
  const i64 keys_end = min(seq, key_end * kBlock);
  transpose_keys(qkv + at.k, at.stride, keys_end, d, key_begin, key_end, kt + key_begin * kBlock * d);
  transpose_keys(qkv + at.v, at.stride, keys_end, d, key_begin, key_end, vt + key_begin * kBlock * d);
  if (dq) copy_rows(qkv + at.k, at.stride, key_begin * kBlock, keys_end, d, 1, k + key_begin * kBlock * dp, dp);
  if (dkv)
    for (i64 i = key_begin * kBlock * dp; i < key_end * kBlock * dp; ++i) dk[i] = 0, dv[i] = 0;

  for (i64 g = 0; g < at.group; ++g) {
    const i64 head = range.kv_head * at.group + g;
    const float* row_lse = lse + (range.batch * op.heads + head) * seq;
    const float* row_delta = delta + (range.batch * op.heads + head) * seq;
    for (i64 i = query_begin; i < query_end; ++i) {
      const i64 r0 = i * kBlock, rows = min(kBlock, seq - r0);
      const i64 first = max(key_begin, first_block(starts, r0)), last = op.causal ? min(i + 1, key_end) : key_end;
      if (first >= last) continue;  // none of the range's keys is of these rows' documents
      copy_rows(qkv + at.q + g * d, at.stride, r0, r0 + rows, d, root * kLog2e, q, dp);
      copy_rows(dout + (range.batch * seq * op.heads + head) * d, op.heads * d, r0, r0 + rows, d, 1, go, dp);
      for (i64 j = first; j < last; ++j) {
        const i64 k0 = j * kBlock, keys = min(kBlock, seq - k0);
        const Skip upper_c = op.causal && i == j ? Skip::upper_c : Skip::nothing;
        block_gemm<A::rows>(upper_c, rows, kBlock, d, q, dp, kt + k0 * d, kBlock, p, kScorePitch, false);
        block_gemm<A::rows>(upper_c, rows, kBlock, d, go, dp, vt + k0 * d, kBlock, gp, kScorePitch, false);
        for (i64 r = 0; r < rows; ++r) {
          float *pr = p + r * kScorePitch, *gr = gp + r * kScorePitch;
          const float shift = row_lse[r0 + r] * kLog2e, mean = row_delta[r0 + r];
          for (i64 c = 0, end = hidden(starts, r0 + r, k0); c < end; ++c) pr[c] = -kInf;
          for (i64 c = visible(op.causal, seq, r0 + r, k0); c < kBlock; ++c) pr[c] = -kInf;
          for (i64 c = 0; c < kBlock; c += kLanes) {
            const Vec e = exp2(load(pr + c) - shift);
            store(pr + c, e);
            store(gr + c, e * (load(gr + c) - mean));
          }
        }
        if (dkv) {
          const Skip lower_a = op.causal && i == j ? Skip::lower_a : Skip::nothing;
          block_gemm<A::columns>(lower_a, keys, dp, rows, p, kScorePitch, go, dp, dv + k0 * dp, dp, true);
          block_gemm<A::columns>(lower_a, keys, dp, rows, gp, kScorePitch, q, dp, dk + k0 * dp, dp, true);
        }
        if (dq) block_gemm<A::rows>(op.causal && i == j ? Skip::upper_a : Skip::nothing, rows, dp, keys, gp, kScorePitch, k + k0 * dp, dp, gq, dp, j > first);
      }
      if (dq)
        for (i64 r = 0; r < rows; ++r)
          for_columns(d, [&](i64 c, i64 n, bool part) {
            store(dqkv + at.q + g * d + (r0 + r) * at.stride + c, load(gq + r * dp + c) * root, n, part);
          });
    }
  }
  if (dkv)
    for (i64 t = key_begin * kBlock; t < keys_end; ++t)
      for_columns(d, [&](i64 c, i64 n, bool part) {
        // dk is Σ ds·q·log2(e)/sqrt(d); log2(e)·ln 2 = 1
        store(dqkv + at.k + t * at.stride + c, load(dk + t * dp + c) * kLn2, n, part);
        store(dqkv + at.v + t * at.stride + c, load(dv + t * dp + c), n, part);
      });
}

}  // namespace llmplan::cpu::LLMPLAN_ISA
