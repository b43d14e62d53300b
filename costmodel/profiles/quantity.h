// Scalars to numbers: strict, with the place in every complaint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "costmodel/profiles/node.h"
#include "costmodel/units.h"

namespace llmplan {

struct Unit {
  const char* name;
  double factor;
};

// The unit lists: the first of each is what messages suggest.
extern const std::vector<Unit> byte_units, rate_units, flops_units, time_units;

double read_quantity(const Node&, const std::string& what, const std::vector<Unit>& units);
Bytes read_bytes(const Node&, const std::string& what);

// An integer from `least` to `most`; a finite number; true or false. `what` names the key.
std::int64_t read_integer(const Node&, const std::string& what, std::int64_t least,
                          std::int64_t most);
double read_number(const Node&, const std::string& what);
bool read_bool(const Node&, const std::string& what);
std::string read_text(const Node&, const std::string& what);

// Throws E0107 unless the node is of this kind; says what it is instead.
void require(const Node&, Node::Kind, const std::string& what);
// Throws E0105, with the nearest of `keys`, for any other key.
void only_keys(const Node& map, const std::vector<std::string>& keys, const std::string& where);
// The value, or E0106.
const Node& required(const Node& map, const std::string& key, const std::string& where);

// "did you mean 'a' or 'b'?", or `otherwise`.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& names,
                         const std::string& otherwise);

}  // namespace llmplan
