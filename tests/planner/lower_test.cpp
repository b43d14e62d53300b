#include "planner/lower.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "costmodel/error.h"
#include "costmodel/estimate.h"
#include "planner/schedule.h"
#include "plans.h"

using namespace llmplan;

namespace {

template <class T>
const T* as(const Instr& i) { return std::get_if<T>(&i.op); }

bool overlaps(const Ref& a, const Ref& b) {
  return a.buffer == b.buffer && a.offset < b.offset + b.size && b.offset < a.offset + a.size;
}

// Bytes of a buffer that have been written, as disjoint ranges.
struct Written {
  std::map<std::int64_t, std::int64_t> ranges;  // begin → end
  void add(std::int64_t begin, std::int64_t end) {
    auto it = ranges.lower_bound(begin);
    if (it != ranges.begin() && std::prev(it)->second >= begin) --it;
    while (it != ranges.end() && it->first <= end) {
      begin = std::min(begin, it->first), end = std::max(end, it->second);
      it = ranges.erase(it);
    }
    ranges[begin] = end;
  }
  bool covers(std::int64_t begin, std::int64_t end) const {
    if (begin == end) return true;
    auto it = ranges.upper_bound(begin);
    return it != ranges.begin() && std::prev(it)->second >= end;
  }
};

bool reads_what_it_writes(const Op& op) {
  if (auto* g = std::get_if<Gemm>(&op)) return g->accumulate;
  if (auto* c = std::get_if<CrossEntropyGrad>(&op)) return c->gradient;
  return std::holds_alternative<Rope>(op) || std::holds_alternative<Collective>(op);
}

// Counts per kind and axis of one layer's instructions in one phase.
std::map<std::string, std::vector<std::int64_t>> collectives(const Program& p, int layer, int micro_batch, Phase phase) {
  std::map<std::string, std::vector<std::int64_t>> sizes;
  for (const Instr& i : p.instrs)
    if (auto* c = as<Collective>(i); c && i.layer == layer && i.micro_batch == micro_batch && i.phase == phase)
      sizes[std::string(name_of(c->kind))].push_back(c->size.value);
  return sizes;
}

double sum_flops(const std::vector<Program>& programs, const auto& counts) {
  double sum = 0;
  for (const Program& p : programs)
    for (const Instr& i : p.instrs)
      if (counts(i)) sum += flops(i.op).value;
  return sum;
}

}  // namespace

TEST_CASE("in list order no instruction reads a byte before another wrote it") {
  for (const Strategy& s : strategy_grid())
    for (bool tied : {false, true})
      for (Purpose purpose : {Purpose::train, Purpose::evaluate}) {
        Plan plan = tiny_plan(s, 3);
        plan.model.tie_word_embeddings = tied;
        CAPTURE(describe(s));
        for (const Program& p : lower(plan, purpose)) {
          std::vector<Written> written(p.buffers.size());
          for (BufferId b : {p.weights, p.rope_table, p.moment1, p.moment2, p.master})
            if (b >= 0) written[b].add(0, p.buffers[b].size.value);
          // The padding behind a bucket's last parameter is zero from the start.
          std::int64_t end = 0;
          for (const Param& q : p.params) written[p.gradients].add(4 * end, 4 * q.begin), end = q.begin + q.elements();
          written[p.gradients].add(4 * end, p.buffers[p.gradients].size.value);
          int unwritten = 0;
          for (const Instr& i : p.instrs) {
            const auto check = [&](const Ref& r) {
              if (r.buffer < 0 || r.offset.value < 0 || r.offset + r.size > p.buffers[r.buffer].size)
                FAIL("an operand outside its buffer");
            };
            for (const Ref& r : i.reads) {
              check(r);
              if (r.size.value == 0) continue;
              unwritten += !written[r.buffer].covers(r.offset.value, r.offset.value + r.size.value);
            }
            for (const Ref& r : i.writes) {
              check(r);
              if (reads_what_it_writes(i.op) && r.buffer != p.gradients && i.reads.empty())
                unwritten += !written[r.buffer].covers(r.offset.value, r.offset.value + r.size.value);
              written[r.buffer].add(r.offset.value, r.offset.value + r.size.value);
            }
          }
          CHECK(unwritten == 0);
        }
      }
}

TEST_CASE("every gradient is set once, by its first writer, and accumulated ever after") {
  for (const Strategy& s : strategy_grid())
    for (bool tied : {false, true}) {
      Plan plan = tiny_plan(s, 3);
      plan.model.tie_word_embeddings = tied;
      CAPTURE(describe(s));
      for (const Program& p : lower(plan)) {
        for (const Param& q : p.params) {
          const Ref mine{p.gradients, {4 * q.begin}, {4 * q.elements()}};
          int sets = 0, adds = 0;
          bool set_first = true;
          std::set<int> micro_batches;
          for (const Instr& i : p.instrs) {
            if (i.phase == Phase::optimizer) continue;
            if (std::none_of(i.writes.begin(), i.writes.end(), [&](const Ref& w) { return overlaps(w, mine); })) continue;
            bool accumulate = false;
            if (auto* g = as<Gemm>(i)) accumulate = g->accumulate;
            else if (auto* e = as<EmbeddingGrad>(i)) accumulate = e->accumulate;
            else if (auto* n = as<RmsNormGrad>(i)) accumulate = n->accumulate;
            else FAIL("unexpected writer of a gradient");
            if (sets + adds == 0) set_first = !accumulate;
            (accumulate ? adds : sets)++;
            micro_batches.insert(i.micro_batch);
          }
          CAPTURE(q.name);
          CHECK(set_first);
          CHECK(sets == 1);
          CHECK(micro_batches.size() == 3);
          // One writer per micro-batch; a tied embedding on one stage has two (the head in one chunk here).
          CHECK(sets + adds == (tied && plan.strategy.pp == 1 && q.name == "model.embed_tokens.weight" ? 6 : 3));
        }
      }
    }
}

TEST_CASE("the parameter tables of all stages and tp ranks are the model's tensors, each once") {
  for (const Strategy& s : strategy_grid())
    for (bool tied : {false, true}) {
      Plan plan = tiny_plan(s, 2);
      plan.model.tie_word_embeddings = tied;
      std::map<std::string, std::vector<std::int64_t>> expected, found;
      for (const Tensor& t : tensors(plan.model)) expected[t.name] = t.shape;
      std::int64_t total = 0;
      for (const Program& p : lower(plan)) {
        std::int64_t end = 0;
        int runs_of_norms = 0;
        bool norms = false;
        const std::int64_t shards = s.zero ? s.dp : 1;
        for (const Param& q : p.params) {
          const bool begins = std::any_of(p.buckets.begin(), p.buckets.end(), [&](const Bucket& b) { return b.begin == q.begin; });
          CHECK(q.begin >= end);
          CHECK(q.begin - end < (begins ? shards * 64 : 1));  // padding is only between buckets
          end = q.begin + q.elements();
          CHECK(q.decay == (q.shape.size() == 2));
          runs_of_norms += q.tp_dim < 0 && !norms;
          norms = q.tp_dim < 0;  // what tp replicates
          std::vector<std::int64_t> whole = q.shape;
          if (q.tp_dim >= 0) whole[q.tp_dim] *= s.tp;
          CHECK(whole == q.full_shape);
          if (!q.counted) continue;
          CHECK(found.emplace(q.name, q.full_shape).second);
          total += q.elements() * (q.tp_dim >= 0 ? s.tp : 1);
        }
        CHECK(runs_of_norms == 1);  // one reduction over tp covers them
        const std::int64_t flat = p.buffers[p.gradients].size.value / 4;
        CHECK(flat >= end);
        CHECK(flat - end < shards * 64);
        CHECK(p.buffers[p.moment1].size.value == flat / shards * 4);
        std::int64_t next = 0;
        for (const Bucket& b : p.buckets) {
          CHECK(b.begin == next);
          CHECK(b.elements > 0);
          if (shards > 1) CHECK(b.elements % (shards * 64) == 0);
          next += b.elements;
        }
        CHECK(next == flat);
      }
      CHECK(found == expected);
      CHECK(total == parameters(plan.model));
    }
}

TEST_CASE("a vocabulary that tp does not divide is padded on every rank to the same rows") {
  Strategy s;
  s.tp = 4;
  Plan plan = tiny_plan(s);
  plan.model.vocab_size = 321;
  const auto programs = lower(plan);
  CHECK(programs[0].params.front().shape == std::vector<std::int64_t>{81, 96});
  CHECK(programs[0].params.front().full_shape == std::vector<std::int64_t>{321, 96});
}

// Narayanan et al. 2021, appendix: F = 72·B·s·l·h²·(1 + s/(6h) + V/(12·l·h)) counts matrix products only;
// 96·B·… with full recomputation. An MLP of 3·h·(8/3·h) weights has as many as their 2·h·4h. Attention is counted
// apart here, because the mask halves it and flash attention computes the scores again in backward.
TEST_CASE("matrix products of a step are Megatron's closed formula, whatever the strategy") {
  for (Strategy s : strategy_grid()) {
    s.recompute_layers = 0;
    Plan plan = tiny_plan(s, 2);
    plan.model.num_key_value_heads = plan.model.num_attention_heads;
    const double B = double(plan.workload.global_batch), seq = 32, l = 4, h = 96, f = 256, V = 320;
    const double model = 72 * B * seq * l * h * h * (1 + V / (12 * l * h));
    // Recomputation repeats the forward pass but for the down projection, whose output no backward reads.
    const double again = s.recompute == Recompute::full ? 2 * B * seq * l * (12 * h * h - f * h) : 0;
    const auto programs = lower(plan);
    CAPTURE(describe(s));
    CHECK(sum_flops(programs, [](const Instr& i) { return as<Gemm>(i) != nullptr; }) * double(s.tp * s.dp) ==
          doctest::Approx(model + again).epsilon(1e-12));
    const double attention = 4 * B * l * h * (seq * (seq + 1) / 2);
    CHECK(sum_flops(programs, [](const Instr& i) { return as<Attention>(i) != nullptr; }) * double(s.tp * s.dp) ==
          attention * (s.recompute == Recompute::full ? 2 : 1));
    CHECK(sum_flops(programs, [](const Instr& i) { return as<AttentionGrad>(i) != nullptr; }) * double(s.tp * s.dp) ==
          attention * 2.5);
  }
}

// Shoeybi et al. 2019, §3: two all-reduces in the forward and two in the backward pass of a layer.
TEST_CASE("tensor parallelism all-reduces b·s·h elements twice forward and twice backward per layer") {
  Strategy s;
  s.tp = 2;
  s.micro_batch = 2;
  const auto programs = lower(tiny_plan(s, 2));
  const std::int64_t bsh = 2 * 32 * 96 * 4;
  for (int layer = 0; layer < 4; ++layer)
    for (Phase phase : {Phase::forward, Phase::backward}) {
      const auto c = collectives(programs[0], layer, 1, phase);
      CHECK(c.size() == 1);
      CHECK(c.at("all_reduce") == std::vector<std::int64_t>{bsh, bsh});
    }
}

// Korthikanti et al. 2022, §4.2.2: two all-gathers and two reduce-scatters forward and backward each, and
// in backward the two inputs that are stored in shards are gathered again.
TEST_CASE("sequence parallelism gathers and scatters twice each way, plus the saved inputs in backward") {
  Strategy s;
  s.tp = 4;
  s.sp = true;
  s.micro_batch = 2;
  const std::int64_t bsh = 2 * 32 * 96 * 4;
  const auto kept = lower(tiny_plan(s, 2));
  auto c = collectives(kept[0], 2, 1, Phase::forward);
  CHECK(c.at("all_gather") == std::vector<std::int64_t>(2, bsh));
  CHECK(c.at("reduce_scatter") == std::vector<std::int64_t>(2, bsh));
  c = collectives(kept[0], 2, 1, Phase::backward);
  CHECK(c.at("all_gather") == std::vector<std::int64_t>(4, bsh));
  CHECK(c.at("reduce_scatter") == std::vector<std::int64_t>(2, bsh));
  CHECK(c.size() == 2);

  // Recomputation has just gathered both inputs; it needs no sum of the down projection.
  s.recompute = Recompute::full;
  const auto recomputed = lower(tiny_plan(s, 2));
  c = collectives(recomputed[0], 2, 1, Phase::recompute);
  CHECK(c.at("all_gather") == std::vector<std::int64_t>(2, bsh));
  CHECK(c.at("reduce_scatter") == std::vector<std::int64_t>(1, bsh));
  c = collectives(recomputed[0], 2, 1, Phase::backward);
  CHECK(c.at("all_gather") == std::vector<std::int64_t>(2, bsh));
  CHECK(c.at("reduce_scatter") == std::vector<std::int64_t>(2, bsh));
}

TEST_CASE("neighbouring stages exchange b·s·h elements per micro-batch and direction, b·s·h/tp under sp") {
  for (bool sp : {false, true}) {
    Strategy s;
    s.tp = 2, s.pp = 4, s.sp = sp;
    const auto programs = lower(tiny_plan(s, 6));
    for (const Program& p : programs) {
      std::map<std::pair<bool, int>, std::vector<int>> seen;  // (is send, peer) → micro-batches
      for (const Instr& i : p.instrs) {
        if (auto* x = as<Send>(i)) {
          CHECK(x->size.value == 32 * 96 * 4 / (sp ? 2 : 1));
          seen[{true, x->stage}].push_back(i.micro_batch);
        }
        if (auto* x = as<Recv>(i)) {
          CHECK(x->size.value == 32 * 96 * 4 / (sp ? 2 : 1));
          seen[{false, x->stage}].push_back(i.micro_batch);
        }
      }
      CHECK(seen.size() == (p.stage == 0 || p.stage == 3 ? 2 : 4));
      for (auto& [key, micro_batches] : seen) CHECK(micro_batches == std::vector<int>{0, 1, 2, 3, 4, 5});
    }
  }
}

TEST_CASE("data parallelism reduces every gradient once per step, however many micro-batches") {
  for (int zero : {0, 1}) {
    Strategy s;
    s.dp = 2, s.zero = zero;
    const auto programs = lower(tiny_plan(s, 5));
    const Program& p = programs[0];
    std::map<std::string, std::int64_t> bytes;
    for (const Instr& i : p.instrs)
      if (auto* c = as<Collective>(i); c && c->axis == Axis::dp) bytes[std::string(name_of(c->kind))] += c->size.value;
    const std::int64_t flat = p.buffers[p.gradients].size.value;
    if (zero == 0)
      CHECK(bytes == std::map<std::string, std::int64_t>{{"all_reduce", flat}});
    else  // Rajbhandari et al. 2020, §7: ZeRO-1 moves what data parallelism does, in two halves
      CHECK(bytes == std::map<std::string, std::int64_t>{{"reduce_scatter", flat}, {"all_gather", flat}});
  }
}

TEST_CASE("under sequence parallelism the norms' gradients, and only they, are summed over tp at the end") {
  for (bool sp : {false, true}) {
    Strategy s;
    s.tp = 2, s.pp = 2, s.sp = sp;
    for (const Program& p : lower(tiny_plan(s, 2))) {
      std::int64_t norms = 0, begin = -1;
      for (const Param& q : p.params)
        if (q.tp_dim < 0) norms += q.elements(), begin = begin < 0 ? q.begin : begin;
      std::vector<Ref> summed;
      for (const Instr& i : p.instrs)
        if (auto* c = as<Collective>(i); c && c->axis == Axis::tp && i.phase == Phase::optimizer) summed.push_back(i.writes[0]);
      if (sp) CHECK(summed == std::vector<Ref>{{p.gradients, {4 * begin}, {4 * norms}}});
      else CHECK(summed.empty());
    }
  }
}

TEST_CASE("a tied head on another stage sums its gradient with the embedding's, on both stages, before dp") {
  Strategy s;
  s.pp = 3, s.dp = 2;
  Plan plan = tiny_plan(s, 2, 3);
  plan.model.tie_word_embeddings = true;
  for (const Program& p : lower(plan)) {
    std::vector<std::string> optimizer;
    for (const Instr& i : p.instrs)
      if (auto* c = as<Collective>(i); c && i.phase == Phase::optimizer) {
        optimizer.push_back(std::string(name_of(c->axis)));
        if (c->axis == Axis::embedding) CHECK(c->size.value == 320 * 96 * 4);
      }
    if (p.stage == 1) CHECK(optimizer == std::vector<std::string>{"dp", "world"});
    else CHECK(optimizer == std::vector<std::string>{"embedding", "dp", "world"});
    int copies = 0;
    for (const Param& q : p.params) copies += !q.counted;
    CHECK(copies == (p.stage == 2));
  }
}

TEST_CASE("GPipe and 1F1B order the same instructions differently") {
  Strategy s;
  s.pp = 4, s.tp = 2, s.sp = true, s.recompute = Recompute::full;
  const auto listing = [&](Schedule schedule) {
    s.schedule = schedule;
    std::vector<std::vector<std::string>> stages;
    for (const Program& p : lower(tiny_plan(s, 6))) {
      std::vector<std::string> lines;
      for (const Instr& i : p.instrs)
        lines.push_back(std::string(kind_of(i.op)) + " " + std::to_string(flops(i.op).value) + " " +
                        std::to_string(bytes_moved(i.op).value) + " " + std::string(name_of(i.phase)) + " " +
                        std::to_string(i.layer) + " " + std::to_string(i.micro_batch));
      stages.push_back(lines);
    }
    return stages;
  };
  auto gpipe = listing(Schedule::gpipe), one_f_one_b = listing(Schedule::one_f_one_b);
  CHECK(gpipe != one_f_one_b);
  for (auto* stages : {&gpipe, &one_f_one_b})
    for (auto& lines : *stages) std::sort(lines.begin(), lines.end());
  CHECK(gpipe == one_f_one_b);
}

// Korthikanti et al. 2022, §5: with full recomputation only the input of each layer is stored, s·b·h elements.
TEST_CASE("between forward and backward full recomputation keeps one b·s·h buffer per layer and micro-batch") {
  Strategy s;
  s.pp = 2, s.schedule = Schedule::gpipe, s.recompute = Recompute::full;
  const auto programs = lower(tiny_plan(s, 3));
  const Program& p = programs[0];
  const auto first_backward =
      std::find_if(p.instrs.begin(), p.instrs.end(), [](const Instr& i) { return i.phase != Phase::forward; });
  std::set<BufferId> written, live;
  for (auto i = p.instrs.begin(); i != first_backward; ++i)
    for (const Ref& r : i->writes) written.insert(r.buffer);
  for (auto i = first_backward; i != p.instrs.end(); ++i)
    for (const Ref& r : i->reads)
      if (written.count(r.buffer) && p.buffers[r.buffer].category == Category::activations) live.insert(r.buffer);
  std::int64_t bytes = 0;
  for (BufferId b : live) bytes += p.buffers[b].size.value;
  CHECK(bytes == 3 * 2 * (1 * 32 * 96 * 4));
}

TEST_CASE("recompute N layers recomputes the first N of each stage") {
  Strategy s;
  s.pp = 2, s.recompute = Recompute::full, s.recompute_layers = 1;
  std::set<int> layers;
  for (const Program& p : lower(tiny_plan(s, 2)))
    for (const Instr& i : p.instrs)
      if (i.phase == Phase::recompute) layers.insert(i.layer);
  CHECK(layers == std::set<int>{0, 2});
}

TEST_CASE("logits never exist whole: at most 512 rows of a large vocabulary on a CPU, every token in one chunk") {
  Plan plan = tiny_plan({}, 1, 1);
  plan.model.vocab_size = 32000;
  plan.workload.seq = 1000;
  for (Purpose purpose : {Purpose::train, Purpose::evaluate}) {
    const auto programs = lower(plan, purpose);
    std::int64_t rows = 0;
    for (const Buffer& b : programs[0].buffers)
      if (b.category == Category::logits) CHECK(b.size <= Bytes{512 * 32000 * 4});
    for (const Instr& i : programs[0].instrs)
      if (auto* c = as<CrossEntropyGrad>(i)) {
        rows += c->rows;
        CHECK(c->gradient == (purpose == Purpose::train));
      }
    CHECK(rows == 1000);
  }
}

TEST_CASE("training and evaluation agree on the persistent buffers, which come first") {
  for (const Strategy& s : strategy_grid()) {
    const Plan plan = tiny_plan(s, 2);
    const auto train = lower(plan), evaluate = lower(plan, Purpose::evaluate);
    for (int stage = 0; stage < s.pp; ++stage) {
      std::vector<std::vector<std::string>> names(2);
      for (int k = 0; k < 2; ++k) {
        bool over = false;
        for (const Buffer& b : (k ? evaluate : train)[stage].buffers) {
          if (!b.persistent) over = true;
          if (!b.persistent) continue;
          CHECK_FALSE(over);
          names[k].push_back(b.name + " " + std::to_string(b.size.value));
        }
      }
      CHECK(names[0] == names[1]);
    }
  }
}

TEST_CASE("evaluation writes no gradients, moments or weights but those that other ranks updated, and leaves the loss in stats") {
  for (const Strategy& s : strategy_grid())
    for (const Program& p : lower(tiny_plan(s, 2), Purpose::evaluate)) {
      int written = 0;
      for (const Instr& i : p.instrs)
        for (const Ref& r : i.writes)
          for (BufferId b : {p.weights, p.gradients, p.moment1, p.moment2})
            written += r.buffer == b && !(b == p.weights && as<Collective>(i));
      CHECK(written == 0);
      const Instr& last = p.instrs.back();
      CHECK(last.writes[0].buffer == p.stats);
    }
}

TEST_CASE("low precision keeps fp32 gradients, moments and a master copy, sharded under ZeRO-1") {
  Strategy s;
  s.dp = 2, s.zero = 1;
  Plan plan = tiny_plan(s);
  plan.workload.precision = DType::bf16;
  const auto programs = lower(plan);
  const Program& p = programs[0];
  const std::int64_t n = p.buffers[p.weights].size.value / 2;
  CHECK(p.buffers[p.gradients].size.value == 4 * n);
  CHECK(p.buffers[p.master].size.value == 4 * n / 2);
  CHECK(p.buffers[p.moment2].size.value == 4 * n / 2);
}

TEST_CASE("fp16 scales the loss by a state that evaluation shares, and skips a step after the world has agreed") {
  Strategy s;
  s.dp = 2, s.pp = 2, s.zero = 1;
  Plan plan = tiny_plan(s, 2);
  plan.workload.precision = DType::fp16;
  for (Purpose purpose : {Purpose::train, Purpose::evaluate})
    for (const Program& p : lower(plan, purpose)) {
      CHECK(p.buffers[p.loss_scaling].persistent);
      std::vector<std::string> end;
      for (const Instr& i : p.instrs) {
        if (auto* c = as<CrossEntropyGrad>(i)) CHECK(c->scaled == (purpose == Purpose::train));
        if (i.phase == Phase::optimizer) end.push_back(std::string(kind_of(i.op)));
      }
      if (purpose == Purpose::train)
        CHECK(end == std::vector<std::string>{"all_gather", "reduce_scatter", "grad_stats", "all_reduce", "loss_scale", "adamw"});
    }
  plan.workload.precision = DType::bf16;
  for (const Program& p : lower(plan)) CHECK(p.loss_scaling == -1);
}

TEST_CASE("packed documents: every stage loads the boundaries, and every rotation and attention reads them") {
  Strategy s;
  s.pp = 4;
  Plan plan = tiny_plan(s, 2);
  plan.workload.documents = true;
  for (const Program& p : lower(plan)) {
    std::map<int, BufferId> starts;  // by micro-batch
    for (const Instr& i : p.instrs) {
      if (as<Load>(i)) starts[i.micro_batch] = i.writes.at(2).buffer;
      if (as<Rope>(i) || as<Attention>(i) || as<AttentionGrad>(i)) CHECK(i.reads.back().buffer == starts.at(i.micro_batch));
    }
    CHECK(starts.size() == 2);
  }
}

TEST_CASE("what cannot be lowered is refused with E0305, what is impossible with E0304") {
  const auto code = [](const auto& change, const char* runtime = "llmplan") {
    Plan plan = tiny_plan();
    plan.workload.runtime = runtime;
    change(plan);
    try {
      lower(plan);
    } catch (const Error& e) {
      CHECK_FALSE(e.hint.empty());
      return e.code;
    }
    return std::string("none");
  };
  CHECK(code([](Plan&) {}) == "none");
  CHECK(code([](Plan& p) { p.strategy.tp = 3; }) == "E0304");
  CHECK(code([](Plan& p) { p.strategy.pp = 5; }) == "E0304");
  CHECK(code([](Plan& p) { p.workload.global_batch = 3, p.strategy.dp = 2; }) == "E0304");
  CHECK(code([](Plan& p) { p.strategy.cp = 2; }) == "E0305");
  CHECK(code([](Plan& p) { p.strategy.zero = 2; }) == "E0305");
  CHECK(code([](Plan& p) { p.strategy.recompute = Recompute::selective; }) == "E0305");
  CHECK(code([](Plan& p) { p.strategy.pp = 2, p.strategy.vpp = 2, p.strategy.schedule = Schedule::interleaved;
                           p.workload.global_batch = 4; }) == "E0305");
  CHECK(code([](Plan& p) { p.strategy.schedule = Schedule::zb_h1; }) == "E0305");
  CHECK(code([](Plan& p) { p.strategy.attention = AttentionKernel::unfused; }) == "E0305");
  CHECK(code([](Plan& p) { p.strategy.offload.optimizer = true; }) == "E0305");
  CHECK(code([](Plan& p) { p.workload.optimizer.kind = OptimizerKind::lion; }) == "E0305");
  CHECK(code([](Plan& p) { p.workload.precision = DType::fp8_e4m3; }) == "none");
  CHECK(code([](Plan& p) { p.workload.precision = DType::fp8_e4m3, p.strategy.tp = 2, p.strategy.sp = true; }) == "E0305");
  CHECK(code([](Plan& p) { p.workload.precision = DType::fp8_e4m3, p.workload.seq = 24; }) == "E0305");
  CHECK(code([](Plan& p) { p.workload.precision = DType::fp16; }) == "none");
  CHECK(code([](Plan& p) { p.workload.optimizer.kind = OptimizerKind::adamw_lean; }) == "E0305");  // in fp32
  CHECK(code([](Plan& p) { p.model.mlp = Mlp::gelu; }) == "E0305");
  CHECK(code([](Plan& p) { p.model.qkv_bias = true; }) == "E0305");
  CHECK(code([](Plan& p) { p.workload.global_batch = 1 << 29; }) == "E0305");
  CHECK(code([](Plan& p) { p.strategy.tp = 8; }, "megatron_lm_2021") == "E0305");  // 4 key/value heads
}

TEST_CASE("the digest is the same for equal plans and differs for any change of strategy") {
  std::set<std::string> seen;
  for (const Strategy& s : strategy_grid()) {
    const std::string d = digest(lower(tiny_plan(s, 2)));
    CHECK(d == digest(lower(tiny_plan(s, 2))));
    CHECK(d.size() == 16);
    seen.insert(d);
  }
  // pp=1: both schedules differ in order from 2 micro-batches on, so every strategy is a program of its own.
  CHECK(seen.size() == strategy_grid().size());
}

TEST_CASE("the digest of a hand-written program never changes") {
  Program p;
  p.buffers.push_back({"x", {1024}, DType::bf16, Space::device, false, Category::activations});
  p.instrs.push_back({RmsNorm{2, 256, false, 1e-5, DType::bf16}, Stream::comm, {{0, {0}, {512}}}, {{0, {512}, {512}}},
                      {}, Phase::backward, 3, 1});
  p.params.push_back({"w", {4, 4}, 0, {2, 4}, 0, true, true});
  CHECK(digest({p}) == "43405ac7abea9344");
  Program q = p;
  q.instrs[0].reads[0].offset = {1};
  CHECK(digest({p}) != digest({q}));
}
