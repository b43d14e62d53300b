// The keys of a hardware profile and the members that they fill. The type of a member decides the
// unit: Bytes "80 GiB", BytesPerSecond "450 GB/s", FlopsPerSecond "989 TFLOP/s", Seconds "2.4 us".
// To give Device or Link a new number, add a line here; reading, writing and the check of its
// source follow.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "costmodel/cluster.h"
#include "costmodel/profiles/node.h"

namespace llmplan {

template <class T>
struct ProfileField {
  using Member = std::variant<std::string T::*, bool T::*, int T::*, double T::*, Bytes T::*,
                              BytesPerSecond T::*, FlopsPerSecond T::*, Seconds T::*, Curve T::*,
                              std::map<DType, FlopsPerSecond> T::*>;
  const char* key;
  Member member;
};
const std::vector<ProfileField<Device>>& device_fields();
const std::vector<ProfileField<Link>>& link_fields();

// A device or link from a mapping whose other keys are `more_keys`. Every number needs a source:
// its own
// (`{value: 80 GiB, source: …}`) or that of an enclosing mapping; `sourced` says that one was seen
// above.
Device read_device_fields(const Node&, const std::vector<std::string>& more_keys, bool sourced,
                          Device base = {});
Link read_link_fields(const Node&, const std::vector<std::string>& more_keys, bool sourced,
                      Link base = {});

std::string to_yaml(const Device&);

// A link by name from hardware_profiles/links.yaml, or written out in place:
// `inter: ib-ndr-400` or `inter: {link: ib-hdr-200, per_node: 4}` (fewer NICs than devices).
Link read_link(const Node&, std::int64_t devices_per_node, bool sourced);
// `tiers: [{devices: 72, link: nvlink-5}]`: what the wiring has beside the node and the whole cluster.
std::vector<Tier> read_tiers(const Node&, std::int64_t devices_per_node, bool sourced);

}  // namespace llmplan
