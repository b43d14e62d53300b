#include <string>

#include <doctest/doctest.h>

#include "tests/tools/shell.h"

using namespace llmplan;

// The whole of gpu-check needs a GPU; here a PATH of our own holds a made-up driver and made-up tools.
namespace {

bool have_python() { return sh("command -v python3", scratch("python")).exit == 0; }

// A folder with bin/: python3, and each of `programs` as a shell script.
std::string tools(const std::string& name, const std::string& programs) {
  const std::string dir = scratch(name);
  const ShellResult r = sh("mkdir bin; ln -s \"$(python3 -c 'import sys; print(sys.executable)')\" bin/python3; for t in env sh bash git sleep; do ln -s \"$(type -P $t)\" bin/$t; done\n"
                           "script() { printf '#!/bin/sh\\n%s\\n' \"$2\" >bin/$1; chmod +x bin/$1; }\n" + programs, dir);
  REQUIRE_MESSAGE(r.exit == 0, r.err);
  return dir;
}

const std::string kDriver =
    "script nvidia-smi 'case \"$*\" in -L) echo \"GPU 0: NVIDIA H200\" ;; *) echo \"NVIDIA H200, 9.0, 143771 MiB, 580.00, 700.00 W\" ;; esac'\n";
const std::string kCompilers =
    "script nvcc 'echo Cuda compilation tools, release 13.0'; script cmake 'echo cmake version 3.25.1'; script g++ 'exit 0'; script ninja 'exit 0'\n";

}  // namespace

TEST_CASE("gpu-check without a GPU writes nothing, with exit 5") {
  if (!have_python()) {
    MESSAGE("skipped: no python3 here");
    return;
  }
  const std::string dir = tools("no driver", "");
  const ShellResult r = sh("PATH=\"$PWD/bin\" python3 \"$SOURCE/tools/gpu-check\" --out \"$PWD/record\"", dir);
  CHECK(r.exit == 5);
  CHECK(r.err.find("no usable NVIDIA GPU") != std::string::npos);
  CHECK(sh("test ! -e record", dir).exit == 0);
}

TEST_CASE("gpu-check names everything that the build needs and that is missing at once, with exit 5") {
  if (!have_python()) {
    MESSAGE("skipped: no python3 here");
    return;
  }
  const std::string dir = tools("no tools", kDriver + "script cmake 'echo cmake version 3.22.1'; script g++ 'exit 1'\n");
  const ShellResult r = sh("PATH=\"$PWD/bin\" python3 \"$SOURCE/tools/gpu-check\" --out \"$PWD/record\"", dir);
  CHECK(r.exit == 5);
  for (const char* word : {"cmake is 3.22", "neither ninja nor make", "libfmt-dev", "libcli11-dev", "doctest-dev"})
    CHECK_MESSAGE(r.err.find(word) != std::string::npos, word, " in ", r.err);
  CHECK(sh("test ! -e record", dir).exit == 0);
}

TEST_CASE("gpu-check goes on after a part that fails, and counts tests that did not run as a failure") {
  if (!have_python()) {
    MESSAGE("skipped: no python3 here");
    return;
  }
  const std::string dir = tools("parts", kDriver + kCompilers +
      "mkdir -p build/tests\n"
      "printf '#!/bin/sh\\necho \"test cases: 0 | 0 passed\"\\n' >build/tests/test_gpu; chmod +x build/tests/test_gpu\n"
      "printf '#!/bin/sh\\necho tables of this machine\\n' >build/llmplan; chmod +x build/llmplan\n");
  const ShellResult r = sh("PATH=\"$PWD/bin\" python3 \"$SOURCE/tools/gpu-check\" --only kernels,golden,environment --build \"$PWD/build\" --out \"$PWD/record\"", dir);
  CHECK(r.exit == 1);
  const ShellResult record = sh("cat record/*-NVIDIA-H200.md", dir);
  REQUIRE(record.exit == 0);
  for (const char* text : {"| environment | passed", "| kernels: every kernel beside the CPU's | FAILED", "| golden: five AdamW steps are PyTorch's | FAILED",
                           "no test ran", "tables of this machine"})
    CHECK_MESSAGE(record.out.find(text) != std::string::npos, text, " in ", record.out);
}

TEST_CASE("gpu-check puts the table of attention's kernels in front of the parts") {
  if (!have_python()) {
    MESSAGE("skipped: no python3 here");
    return;
  }
  const std::string dir = tools("attention", kDriver + kCompilers +
      "mkdir -p build/tests\n"
      "printf '#!/bin/sh\\necho \"| llama, forward | 1.0 |\"\\necho \"test cases: 2 | 2 passed\"\\n' >build/tests/test_gpu; chmod +x build/tests/test_gpu\n");
  const ShellResult r = sh("PATH=\"$PWD/bin\" python3 \"$SOURCE/tools/gpu-check\" --only attention --build \"$PWD/build\" --out \"$PWD/record\"", dir);
  CHECK(r.exit == 0);
  const ShellResult record = sh("cat record/*-NVIDIA-H200.md", dir);
  const auto table = record.out.find("| llama, forward | 1.0 |"), parts = record.out.find("| part | result |");
  CHECK(table < parts);
  CHECK(parts < record.out.find("| attention: llmplan's kernels beside cuDNN's | passed"));
}

TEST_CASE("gpu-check leaves out what its seconds do not suffice for, names a failing part's command, and ends in time") {
  if (!have_python()) {
    MESSAGE("skipped: no python3 here");
    return;
  }
  const std::string dir = tools("seconds", kDriver + kCompilers +
      "mkdir -p build/tests\n"
      "printf '#!/bin/sh\\necho \"on the way $1\"; exec sleep 60\\n' >build/tests/test_gpu; chmod +x build/tests/test_gpu\n");
  const ShellResult r = sh("begin=$(date +%s); PATH=\"$PWD/bin:$PATH\" python3 \"$SOURCE/tools/gpu-check\" --seconds 11 --only kernels,golden --build \"$PWD/build\" --out \"$PWD/record\"; "
                           "code=$?; echo $(($(date +%s) - begin)) >seconds; exit $code", dir);
  CHECK(r.exit == 1);
  CHECK(std::stoi(file_text(dir + "/seconds")) < 30);
  const ShellResult record = sh("cat record/*-NVIDIA-H200.md", dir);
  for (const char* text : {"| golden: five AdamW steps are PyTorch's | stopped at its limit", "| kernels: every kernel beside the CPU's | left out: time is over",
                           "build/tests/test_gpu", " '-tc=golden*'", "on the way -tc=golden*"})
    CHECK_MESSAGE(record.out.find(text) != std::string::npos, text, " in ", record.out);
}

TEST_CASE("gpu-check that is killed leaves a record of the parts before, and of the one that was running") {
  if (!have_python()) {
    MESSAGE("skipped: no python3 here");
    return;
  }
  const std::string dir = tools("killed check", kDriver + kCompilers +
      "mkdir -p build/tests\n"
      "printf '#!/bin/sh\\ncase \"$1\" in -tc=golden*) echo \"test cases: 3 | 3 passed\" ;; *) exec sleep 60 ;; esac\\n' >build/tests/test_gpu; chmod +x build/tests/test_gpu\n");
  const ShellResult r = sh("PATH=\"$PWD/bin:$PATH\" python3 \"$SOURCE/tools/gpu-check\" --only kernels,golden --build \"$PWD/build\" --out \"$PWD/record\" & pid=$!\n"
                           "for i in $(seq 300); do grep -q 'was running' record/*.md 2>/dev/null && grep -q 'golden.*passed' record/*.md && break; sleep 0.1; done\n"
                           "kill -KILL $pid $(cat /proc/$pid/task/$pid/children); wait $pid; cat record/*-NVIDIA-H200.md", dir);
  for (const char* text : {"| golden: five AdamW steps are PyTorch's | passed", "| kernels: every kernel beside the CPU's | was running when this was written"})
    CHECK_MESSAGE(r.out.find(text) != std::string::npos, text, " in ", r.out);
}

TEST_CASE("gpu-check --pack unpacks every library that the build needs, and says which command failed") {
  if (!have_python()) {
    MESSAGE("skipped: no python3 here");
    return;
  }
  const std::string dir = tools("pack",
      "script apt-get '[ \"$1\" = download ] && : >\"$2_1_all.deb\"'; script dpkg-deb 'basename \"$2\" >>\"$3/unpacked\"'\n");
  const ShellResult r = sh("PATH=\"$PWD/bin:$PATH\" python3 \"$SOURCE/tools/gpu-check\" --pack \"$PWD/libraries\"", dir);
  CHECK_MESSAGE(r.exit == 0, r.err);
  const std::string unpacked = file_text(dir + "/libraries/unpacked");
  for (const char* package : {"libfmt-dev", "libcli11-dev", "nlohmann-json3-dev", "libyaml-cpp-dev", "doctest-dev", "libeigen3-dev", "libfmt9", "libyaml-cpp0.7"})
    CHECK_MESSAGE(unpacked.find(std::string(package) + "_1_all.deb") != std::string::npos, package);
  const ShellResult offline = sh("printf '#!/bin/sh\\necho no network >&2; exit 100\\n' >bin/apt-get; PATH=\"$PWD/bin:$PATH\" python3 \"$SOURCE/tools/gpu-check\" --pack \"$PWD/libraries\"", dir);
  CHECK(offline.exit == 5);
  CHECK(offline.err.find("apt-get download") != std::string::npos);
  CHECK(offline.err.find("no network") != std::string::npos);
}
