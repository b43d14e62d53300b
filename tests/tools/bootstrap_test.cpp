#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "tests/tools/shell.h"

using namespace llmplan;

// The whole of bootstrap needs a bare machine; here a PATH of our own stands in for what is broken about one.
namespace {

std::string tools_without(const std::string& name, const std::string& replacement) {
  const std::string dir = scratch(name);
  const ShellResult r = sh("mkdir bin; for t in bash env sed sort head dirname id nproc cat grep ls; do ln -s \"$(type -P $t)\" bin/$t; done\n" + replacement, dir);
  REQUIRE_MESSAGE(r.exit == 0, r.err);
  return dir;
}

}  // namespace

TEST_CASE("bootstrap without an argument prints its usage and does nothing") {
  const ShellResult r = sh("\"$SOURCE/tools/bootstrap\"", scratch("usage"));
  CHECK(r.exit == 2);
  CHECK(r.err.find("tools/bootstrap demo") != std::string::npos);
}

TEST_CASE("bootstrap names packages that neither root nor sudo can install, with exit 5") {
  const std::string dir = tools_without("no sudo", "printf '#!/bin/sh\\nexit 1\\n' >bin/dpkg-query; rm bin/id; printf '#!/bin/sh\\necho 1000\\n' >bin/id; chmod +x bin/*");
  const ShellResult r = sh("PATH=\"$PWD/bin\" \"$SOURCE/tools/bootstrap\" build", dir);
  CHECK_MESSAGE(r.exit == 5, r.err);
  CHECK(r.err.find("error[E0530]") != std::string::npos);
  CHECK(r.err.find("libeigen3-dev") != std::string::npos);
  CHECK(r.err.find("apt-get install") != std::string::npos);
}

TEST_CASE("bootstrap refreshes the package lists once, and names what apt does not know, with exit 5") {
  const std::string dir = tools_without(
      "no package",
      "printf '#!/bin/sh\\nexit 1\\n' >bin/dpkg-query; rm bin/id; printf '#!/bin/sh\\necho 0\\n' >bin/id\n"
      "printf '#!/bin/sh\\necho \"$@\" >>\"$LOG\"\\n[ \"$1\" = update ]\\n' >bin/apt-get\n"
      "printf '#!/bin/sh\\necho \"  Candidate: (none)\"\\n' >bin/apt-cache; chmod +x bin/*");
  const ShellResult r = sh("LOG=\"$PWD/log\" PATH=\"$PWD/bin\" \"$SOURCE/tools/bootstrap\" build", dir);
  CHECK_MESSAGE(r.exit == 5, r.err);
  CHECK(r.err.find("apt knows no package") != std::string::npos);
  CHECK(r.err.find("libcli11-dev") != std::string::npos);
  CHECK(sh("test $(grep -c ^update log) -eq 1", dir).exit == 0);
}

TEST_CASE("bootstrap says when CMake is too old, with exit 5") {
  const std::string dir = tools_without(
      "old cmake",
      "printf '#!/bin/sh\\nprintf installed\\n' >bin/dpkg-query\n"
      "printf '#!/bin/sh\\necho cmake version 3.22.1\\n' >bin/cmake\n"
      "for t in ninja c++ g++; do printf '#!/bin/sh\\necho 12.2.0\\n' >bin/$t; done; chmod +x bin/*");
  const ShellResult r = sh("PATH=\"$PWD/bin\" \"$SOURCE/tools/bootstrap\" build", dir);
  CHECK_MESSAGE(r.exit == 5, r.err);
  CHECK(r.err.find("CMake 3.22.1 is too old") != std::string::npos);
}
