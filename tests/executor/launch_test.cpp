#include <doctest/doctest.h>

#include <map>

#include "executor/hostfile.h"
#include "executor/launch.h"
#include "tests/executor/scratch.h"

namespace llmplan {
namespace {

using Variables = std::map<std::string, std::string>;

Launch find(const Variables& v) {
  return find_launch([&](const char* name) { return v.contains(name) ? v.at(name).c_str() : nullptr; });
}

TEST_CASE("Each launcher's variables give the rank, the world and where to meet") {
  CHECK(find({}).size == 1);
  CHECK(find({}).launcher.empty());

  Launch l = find({{"RANK", "5"}, {"WORLD_SIZE", "16"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "4"}, {"MASTER_ADDR", "node7"}, {"MASTER_PORT", "29500"}});
  CHECK(l.rank == 5);
  CHECK(l.size == 16);
  CHECK(l.local_rank == 1);
  CHECK(l.local_size == 4);
  CHECK(l.master == "node7");
  CHECK(l.port == 29500);
  CHECK_FALSE(l.mpi);
  // torchrun's agent itself listens on MASTER_PORT.
  CHECK(find({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "29500"}, {"TORCHELASTIC_USE_AGENT_STORE", "True"}}).port == 29501);

  l = find({{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "8"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  CHECK(l.launcher == "Open MPI");
  CHECK(l.mpi);
  CHECK(l.rank == 3);
  CHECK(l.local_rank == 1);

  CHECK(find({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}).mpi);

  const Variables job = {{"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}, {"SLURM_LOCALID", "0"}, {"SLURM_JOB_ID", "41234"}, {"SLURM_JOB_NODELIST", "gnode[10,20-21]"}};
  CHECK(find(job).size == 1);  // a batch script, which no srun has multiplied
  Variables step = job;
  step["SLURM_STEP_ID"] = "0";
  l = find(step);
  CHECK(l.rank == 2);
  CHECK(l.size == 4);
  CHECK(l.master == "gnode10");
  CHECK(l.port == 20'000 + 41'234 % 20'000);
  CHECK_FALSE(l.mpi);
  step["PMIX_RANK"] = "2";  // srun --mpi=pmix
  CHECK(find(step).mpi);
}

TEST_CASE("Variables that contradict each other or themselves are refused, and both sides are named") {
  std::string message;
  auto code = [&](const Variables& v) { return error_of([&] { find(v); }, &message); };
  CHECK(code({{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "4"}}) == "E0507");
  CHECK(message.find("torchrun says rank 1") != message.npos);
  CHECK(message.find("Open MPI says rank 2") != message.npos);
  CHECK(code({{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "8"}}) == "E0507");
  CHECK(code({{"RANK", "1"}}) == "E0507");
  CHECK(code({{"RANK", "4"}, {"WORLD_SIZE", "4"}}) == "E0507");
  CHECK(code({{"RANK", "x"}, {"WORLD_SIZE", "4"}}) == "E0507");
  CHECK(message.find("RANK=x") != message.npos);
  CHECK(code({{"RANK", "-1"}, {"WORLD_SIZE", "4"}}) == "E0507");
  CHECK(code({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "70000"}}) == "E0507");
  CHECK(code({{"WORLD_SIZE", "4"}}) == "none");  // left over, but names no rank
}

TEST_CASE("Slurm's compressed lists of hosts expand in order, with their zeros") {
  using List = std::vector<std::string>;
  CHECK(expand_hosts("login") == List{"login"});
  CHECK(expand_hosts("gnode[10,20,25,37]") == List{"gnode10", "gnode20", "gnode25", "gnode37"});
  CHECK(expand_hosts("n[08-11]-ib,x,y[1-2]") == List{"n08-ib", "n09-ib", "n10-ib", "n11-ib", "x", "y1", "y2"});
  for (const char* bad : {"", "a[1", "a]1[", "a[1-]", "a[x]", ",a"}) CHECK_MESSAGE(error_of([&] { expand_hosts(bad); }) == "E0507", bad);
}

TEST_CASE("A hostfile gives hosts and slots, and its errors their line and column") {
  const auto hosts = parse_hostfile("# ours\nnode1 slots=8\n\n  node2\tslots=4  # the old one\r\nnode3\n", "hosts");
  REQUIRE(hosts.size() == 3);
  CHECK(hosts[0].name == "node1");
  CHECK(hosts[0].slots == 8);
  CHECK(hosts[1].slots == 4);
  CHECK(hosts[2].slots == 1);

  struct Case { const char* text; const char* code; int line, column; };
  for (const Case& c : {Case{"a slots=8\nb slot=4", "E0105", 2, 3}, Case{"a slots=", "E0109", 1, 3}, Case{"a slots=0", "E0109", 1, 9},
                        Case{"a slots=8x", "E0109", 1, 9}, Case{"a slots=2 type=A100", "E0105", 1, 11}, Case{"a\nb\na slots=2", "E0103", 3, 1},
                        Case{"slots=4", "E0106", 1, 1}, Case{"# nobody\n", "E0106", 0, 0}}) {
    INFO(c.text);
    try {
      parse_hostfile(c.text, "hosts");
      FAIL_CHECK("it was accepted");
    } catch (const Error& e) {
      CHECK(e.code == c.code);
      CHECK(e.location.file == "hosts");
      CHECK(e.location.line == c.line);
      CHECK(e.location.column == c.column);
    }
  }
  CHECK(error_of([] { read_hostfile("/nowhere/hosts"); }) == "E0401");
}

}  // namespace
}  // namespace llmplan
