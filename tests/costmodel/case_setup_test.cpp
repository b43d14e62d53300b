// What a row that leaves things out is taken to mean, and what is put right in it.
#include <doctest/doctest.h>

#include "costmodel/error.h"
#include "costmodel/profiles/case_file.h"
#include "costmodel/profiles/errata.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/validate.h"

namespace llmplan {
namespace {

// A pipeline of 8 stages on 512 devices, 32 sequences per data-parallel rank, as torchtitan publishes it.
Case titan(const std::string& notes) {
  Case c;
  c.id = "t", c.source = "s", c.runtime = "fsdp2", c.device = "h100-80g-sxm", c.mlp = "swiglu", c.notes = notes;
  c.layers = 126, c.hidden = 16384, c.heads = 128, c.kv_heads = 8, c.ffn = 53248, c.vocab = 128256, c.seq = 8192;
  c.n_devices = 512, c.devices_per_node = 8, c.tp = 8, c.pp = 8, c.dp = 8, c.global_batch = 256;
  c.recompute = "full";
  return c;
}

Setup setup_of(const Case& c) {
  static const ValidationData data = validation_data();
  auto s = set_up(c, data);
  if (const auto* why = std::get_if<std::string>(&s)) FAIL(*why);
  return std::get<Setup>(std::move(s));
}

// torchtitan's --help: "the default value will be the number of pipeline stages", looped schedules have two per rank.
TEST_CASE("a torchtitan pipeline that prints no micro-batch has as many as stages, and two stages per rank if interleaved") {
  const Setup plain = setup_of(titan("1F1B"));
  CHECK(plain.strategy.vpp == 1);
  CHECK(plain.strategy.micro_batch == 32 / 8);
  const Setup looped = setup_of(titan("Interleaved 1F1B"));
  CHECK(looped.strategy.vpp == 2);
  CHECK(looped.strategy.micro_batch == 32 / 16);
  Case few = titan("1F1B");
  few.global_batch = 32;  // fewer sequences per rank than stages: one each
  CHECK(setup_of(few).strategy.micro_batch == 1);
  Case printed = titan("Interleaved 1F1B");
  printed.vpp = 4, printed.micro_batch = 1;  // what is printed stands
  CHECK(setup_of(printed).strategy.vpp == 4);
  CHECK(setup_of(printed).strategy.micro_batch == 1);
}

TEST_CASE("a row's words choose how its software ran, the first of the list first") {
  CHECK(setup_of(titan("")).runtime.name == "fsdp2");
  CHECK(setup_of(titan("compile=0")).runtime.name == "fsdp2-eager");
  CHECK(setup_of(titan("compile=0; ChunkedCE")).runtime.name == "fsdp2-chunked");
  Case old = titan("compile=1");
  old.device = "h100-96g-500w";  // torchtitan's cards of 2024, when the loss was not compiled
  CHECK(setup_of(old).runtime.name == "fsdp2-eager-loss");
}

TEST_CASE("an erratum corrects the rows of its own source and says so; the same id elsewhere stays as it is") {
  const auto errata = parse_errata("- source: s\n  rows: [a, b]\n  cells: {vpp: 12}\n  why: its script says so\n", "e.yaml");
  std::vector<Case> cases(3, titan(""));
  cases[0].id = "a", cases[1].id = "a", cases[1].source = "other", cases[2].id = "c";
  std::vector<std::string> notes;
  correct(cases, errata, &notes);
  CHECK(cases[0].vpp == 12);
  CHECK_FALSE(cases[1].vpp.has_value());
  CHECK_FALSE(cases[2].vpp.has_value());
  REQUIRE(notes.size() == 1);
  CHECK(notes[0] == "s: vpp is read as 12 in a: its script says so");
}

TEST_CASE("an erratum that no row could hold is refused at its place") {
  const auto error_of = [](const std::string& cells) {
    try {
      parse_errata("- source: s\n  rows: [a]\n  cells: {" + cells + "}\n  why: w\n", "e.yaml");
    } catch (const Error& e) {
      return e.code + ":" + std::to_string(e.location.line);
    }
    return std::string("accepted");
  };
  CHECK(error_of("vpp: 12") == "accepted");
  CHECK(error_of("vpp: twelve") == "E0107:3");
  CHECK(error_of("vp: 12") == "E0107:3");
}

TEST_CASE("every erratum that is shipped can be read") { CHECK(read_errata().size() >= 2); }

}  // namespace
}  // namespace llmplan
