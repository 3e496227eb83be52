"""Parent and child write to each other's full pipes: a server that echoes and a client that sends all before it reads."""

# /// zoo
# expect = "hang"
# causes = ["pipe-deadlock"]
# culprit = ["pipe", "tokenize_all"]
# provable = true
# needs = []
# stdin = "null"
# cure = "drain"
# timeouts = "stall"
# ///

from __future__ import annotations

import subprocess

import zoo


def tokenize_all(rows):
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    zoo.say_hang()
    for row in rows:
        process.stdin.write(row)
    process.stdin.close()
    return process.stdout.read()


def main():
    zoo.warm_up()
    print(len(tokenize_all([b"x" * 99 + b"\n"] * 5000)))


main()
