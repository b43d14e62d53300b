#include "executor/transport.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>


namespace llmplan {
namespace {

void send(Transport& t, int peer, std::span<const std::byte> bytes) {
  const Transport::Outgoing out{peer, bytes};
  t.exchange(Channel::control, std::span(&out, 1), {});
}
void receive(Transport& t, int peer, std::span<std::byte> bytes) {
  const Transport::Incoming in{peer, bytes};
  t.exchange(Channel::control, {}, std::span(&in, 1));
}

// A binomial tree: process r hears from r without its lowest bit, and tells r + 1, r + 2, r + 4, … below that bit.
int lowest_bit(int r, int size) {
  int bit = 1;
  while (bit < size && !(r & bit)) bit *= 2;
  return bit;
}

}  // namespace

void broadcast(Transport& t, std::span<std::byte> bytes) {
  const int me = t.rank(), mine = lowest_bit(me, t.size());
  if (me > 0) receive(t, me - mine, bytes);
  for (int bit = mine / 2; bit >= 1; bit /= 2)
    if (me + bit < t.size()) send(t, me + bit, bytes);
}

std::string broadcast(Transport& t, std::string text) {
  std::uint64_t size = text.size();
  broadcast(t, std::as_writable_bytes(std::span(&size, 1)));
  text.resize(size);
  broadcast(t, std::as_writable_bytes(std::span(text)));
  return text;
}

int agree(Transport& t, int value) {
  // The same tree upwards, then down.
  const int me = t.rank(), mine = lowest_bit(me, t.size());
  for (int bit = 1; bit < mine; bit *= 2)
    if (int theirs = 0; me + bit < t.size()) {
      receive(t, me + bit, std::as_writable_bytes(std::span(&theirs, 1)));
      value = std::max(value, theirs);
    }
  if (me > 0) send(t, me - mine, std::as_bytes(std::span(&value, 1)));
  broadcast(t, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

void fetch(Transport& t, int owner, std::span<std::byte> bytes) {
  if (owner == 0) return;
  if (t.rank() == owner) send(t, 0, bytes);
  if (t.rank() == 0) receive(t, owner, bytes);
}

void on_first(Transport* t, const std::function<void()>& work) {
  if (!t) return work();
  std::optional<Error> error;
  std::string told;
  if (t->rank() == 0) {
    try {
      work();
    } catch (const Error& e) {
      error = e;
      told = nlohmann::json{{"code", e.code}, {"exit", static_cast<int>(e.exit)}, {"message", e.message}, {"hint", e.hint}}.dump();
    }
  }
  told = broadcast(*t, told);
  if (error) throw *error;
  if (told.empty()) return;
  const auto j = nlohmann::json::parse(told);
  throw ToldByFirst(j["code"], static_cast<Exit>(j["exit"].get<int>()), j["message"], j["hint"]);
}

}  // namespace llmplan
