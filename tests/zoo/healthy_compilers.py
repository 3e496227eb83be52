"""A build: compilers as short-lived children, one after the other, silent."""

# /// zoo
# expect = "healthy"
# lives_by = "children"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import zoo

source = zoo.directory() / "kernel.cpp"
source.write_text(
    '#include <algorithm>\n#include <map>\n#include <regex>\n#include <string>\nint f() { return std::regex_match(std::string("a"), std::regex("a")); }\n'
)
compiler = shutil.which("g++")
command = (
    [compiler, "-O2", "-c", str(source), "-o", str(source) + ".o"] if compiler else [sys.executable, "-c", "sum(range(60_000_000))"]
)
end = time.monotonic() + 3 * zoo.stall()
while time.monotonic() < end:
    subprocess.run(command, check=True)
zoo.finish()
