// llmplan validate as a user sees it: what was skipped, what was guessed, what was corrected.
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tests/tools/shell.h"

using namespace llmplan;
using Json = nlohmann::json;

namespace {
const std::string kHeader =
    "id,source,runtime,device,layers,hidden,heads,ffn,mlp,vocab,seq,n_devices,devices_per_node,fabric,tp,pp,vpp,dp,"
    "global_batch,micro_batch,step_time_s\n";
std::string row(const std::string& id, const std::string& source, const std::string& fabric, const std::string& vpp) {
  return id + "," + source + ",megatron-core,h100-80g-sxm,48,6144,64,24576,gelu,51200,2048,128,8," + fabric + ",8,4," + vpp +
         ",4,64,1,1.0\n";
}
}  // namespace

TEST_CASE("a network that llmplan does not know is predicted with the usual one, and validate says of how many rows") {
  const std::string dir = scratch("fabric");
  write_text(dir + "/runs.csv", kHeader + row("a", "s", "carrier pigeons", "1") + row("b", "s", "carrier pigeons", "1") +
                                    row("c", "s", "HDR InfiniBand", "1"));
  const ShellResult text = sh("\"$LLMPLAN\" validate runs.csv", dir);
  REQUIRE(text.exit == 0);
  CHECK(text.out.find("predicted, but\n     2  the network 'carrier pigeons' is not known") != std::string::npos);
  const ShellResult json = sh("\"$LLMPLAN\" validate runs.csv --json", dir);
  REQUIRE(json.exit == 0);
  const Json document = Json::parse(json.out);
  REQUIRE(document["cases"].size() == 6);  // a time and a memory verdict each
  for (const Json& c : document["cases"]) {
    CHECK(c["status"] == "ok");
    CHECK(c["note"].is_null() == (c["id"] == "c"));
  }
}

TEST_CASE("an erratum changes the prediction of its source's row, is told, and leaves the same id of others alone") {
  const std::string dir = scratch("errata");
  // dgxc-0051 prints no interleaving where its source's script sets 12 chunks; 48 layers are 4 stages of 12.
  write_text(dir + "/runs.csv", kHeader + row("dgxc-0051", "nvidia_dgxc_benchmarking", "", "1") + row("dgxc-0051", "mine", "", "1"));
  const ShellResult r = sh("\"$LLMPLAN\" validate runs.csv --json", dir);
  REQUIRE(r.exit == 0);
  CHECK(r.err.find("vpp is read as 12 in dgxc-0051") != std::string::npos);
  double theirs = 0, mine = 0;
  const Json document = Json::parse(r.out);
  for (const Json& c : document["cases"])
    if (c["metric"] == "step_time") (c["source"] == "mine" ? mine : theirs) = c["predicted"].get<double>();
  CHECK(theirs > 0);
  CHECK(theirs < 0.95 * mine);  // bubble of (4 − 1)/16 of the step, against a twelfth of it
}
