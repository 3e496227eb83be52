"""A child's stdout is read to its end while its stderr fills up."""

# /// zoo
# expect = "hang"
# causes = ["pipe-deadlock"]
# culprit = ["pipe", "quantize"]
# provable = true
# needs = []
# stdin = "null"
# cure = "drain"
# timeouts = "stall"
# ///

from __future__ import annotations

import subprocess
import sys

import zoo

SCRIPT = """
import sys
for i in range(3000):
    print('warning: tensor', i, 'has outliers', 'x' * 60, file=sys.stderr)
print('done')
"""


def quantize():
    process = subprocess.Popen([sys.executable, "-S", "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    zoo.say_hang()
    output = process.stdout.read()
    return output + process.stderr.read()


def main():
    zoo.warm_up()
    quantize()
    zoo.finish()


main()
