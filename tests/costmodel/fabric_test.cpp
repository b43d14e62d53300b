#include "costmodel/fabric.h"

#include <doctest/doctest.h>

#include <cmath>
#include <iterator>

#include "costmodel/profiles/case_file.h"
#include "costmodel/profiles/node.h"
#include "costmodel/profiles/profile_fields.h"
#include "costmodel/profiles/profiles.h"
#include "costmodel/validate.h"

namespace llmplan {
namespace {

struct Worded {
  const char* cluster;
  const char* text;
  double gbit;         // of one device and direction
  int ports;           // of a node; 0: one each, or not said
  const char* link;    // the link profile whose latency counts; "": the device's usual one
};

TEST_CASE("networks are read as sources word them: rates of nodes are shared, those of devices and ports are not") {
  const auto words = validation_data().fabrics;
  const Worded cases[] = {
      // As published tables word them.
      {"2x8xa100-80g-sxm", "8x200Gb/s HDR IB (Selene)", 200, 8, "ib-hdr-200"},
      {"2x8xa100-80g-sxm", "4x100Gb/s RoCE", 50, 4, "roce-200"},
      {"2x8xa100-80g-sxm", "1600 Gb/s RoCE per node", 200, 0, "roce-200"},
      {"2x8xa100-80g-sxm", "1600 Gb/s RoCE per node (stated in later revision of the same table)", 200, 0, "roce-200"},
      {"2x8xa100-80g-sxm", "800 Gb/s per node (vTrain config inter_node_bandwidth=800)", 100, 0, ""},
      {"2x8xa100-40g-pcie", "100Gb/s IB", 12.5, 0, "ib-hdr-200"},
      {"2x8xh100-80g-sxm", "8x400Gb/s IB NDR per node", 400, 8, "ib-ndr-400"},
      {"2x8xh100-96g-500w", "400Gb/s per GPU RDMA (backend)", 400, 0, ""},
      {"2x8xh200-141g-sxm", "400Gb/s CX-7 per GPU", 400, 0, "ib-ndr-400"},
      {"2x8xh100-96g-500w", "400Gb/s per GPU (Grand Teton; from sibling doc)", 400, 0, ""},
      // As others might.
      {"2x8xa100-80g-sxm", "HDR InfiniBand 200 Gb/s x4", 100, 4, "ib-hdr-200"},
      {"2x8xa100-80g-sxm", "RoCE 100G", 12.5, 0, "roce-200"},
      {"2x8xh100-80g-sxm", "EFA 3200", 400, 0, "efa-2"},
      {"2x8xa100-80g-sxm", "EFA", 50, 0, "efa-1"},
      {"2x8xh100-80g-sxm", "NDR400", 400, 0, "ib-ndr-400"},
      {"2x8xa100-80g-sxm", "25GbE", 3.125, 0, "ethernet-10"},
      {"2x8xa100-80g-sxm", "2x 25 GbE", 6.25, 2, "ethernet-10"},
      {"2x4xa100-40g-sxm", "Slingshot-11", 200, 0, "slingshot-11"},
      {"2x4xa100-40g-sxm", "4x Slingshot 11 NICs", 200, 4, "slingshot-11"},
      {"2x8xa800-80g-sxm", "InfiniBand HDR", 100, 4, "ib-hdr-200"},  // of the four ports that such a node has
      {"2x8xh100-80g-sxm", "InfiniBand", 400, 0, "ib-hdr-200"},      // no rate: the usual one
      {"2x8xh100-80g-sxm", "50 GB/s per GPU InfiniBand", 400, 0, "ib-hdr-200"},
      {"2x8xh100-80g-sxm", "3.2 Tb/s EFA v2", 400, 0, "efa-2"},
      {"2x8xh100-80g-sxm", "3200 Gbps EFAv2", 400, 0, "efa-2"},
      {"2x8xh100-80g-sxm", "8 x 400 Gbit/s InfiniBand NDR, rail-optimized", 400, 8, "ib-ndr-400"},
      {"2x4xv100-32g-sxm", "4x100Gb/s Omni-Path", 100, 4, "omni-path-100"},
      {"2x8xh100-80g-sxm", "ConnectX-7 400Gb/s per port", 400, 0, "ib-ndr-400"},
      {"2x8xa100-80g-sxm", "dual-port 100 Gb/s RoCEv2", 25, 2, "roce-200"},
      {"2x8xb300-288g", "XDR", 800, 0, "ib-xdr-800"},
  };
  for (const Worded& w : cases) {
    CAPTURE(w.text);
    Cluster c = read_cluster(w.cluster);
    const Link usual = c.inter;
    CHECK(set_fabric(c, w.text, c.devices_per_node, words) == "");
    CHECK(c.inter.bandwidth.value * 8e-9 == doctest::Approx(w.gbit));
    CHECK(c.inter.ports == w.ports);
    const Link expected = *w.link ? read_link(parse_yaml(w.link, "link"), 1, true) : usual;
    CHECK(c.inter.latency == expected.latency);
    CHECK(c.inter.efficiency == expected.efficiency);
  }
}

TEST_CASE("words for a network that mean nothing leave the device's usual one, and the row says so") {
  const auto words = validation_data().fabrics;
  for (const char* text : {"carrier pigeon", "fast", "Quux 7"}) {
    CAPTURE(text);
    Cluster c = read_cluster("2x8xh100-80g-sxm");
    const Link usual = c.inter;
    const std::string note = set_fabric(c, text, 8, words);
    CHECK(note.find(text) != std::string::npos);
    CHECK(note.find(usual.name) != std::string::npos);
    CHECK(c.inter == usual);
  }
  Cluster c = read_cluster("2x8xh100-80g-sxm");
  const std::string note = set_fabric(c, "Quux 100 Gb/s", 8, words);  // a rate of something
  CHECK(note.find("only the rate") != std::string::npos);
  CHECK(c.inter.bandwidth.value == 100e9 / 8 / 8);
  CHECK(set_fabric(c, "", 8, words) == "");
  CHECK(set_fabric(c, "  ", 8, words) == "");
}

TEST_CASE("any text whatever is a network or a note, never a crash or a rate that is not positive") {
  const auto words = validation_data().fabrics;
  const char* pieces[] = {"8x", "x4", "200", "gb/s", "GB/s", "hdr", "(", ")", "per gpu", "0", "1e99", ".", "efa", " ", "x", "ib", "999999999999999999999", "-", "nics", "dual-port", "µ"};
  std::uint64_t state = 12345;
  for (int trial = 0; trial < 20000; ++trial) {
    std::string text;
    for (int i = 0; i < 6; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      text += pieces[(state >> 33) % std::size(pieces)];
    }
    Cluster c;
    c.nodes = 2, c.devices_per_node = 8;
    c.inter.bandwidth = {25e9};
    set_fabric(c, text, 8, words);
    CHECK(c.inter.bandwidth.value > 0);
    CHECK(std::isfinite(c.inter.bandwidth.value));
  }
}

}  // namespace
}  // namespace llmplan
