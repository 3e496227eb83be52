"""After some steps a loop that packs sequences no longer advances."""

# /// zoo
# expect = "hang"
# causes = ["busy-loop"]
# culprit = ["pack"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "rhythm"
# ///

from __future__ import annotations

import zoo


def pack(lengths, room):
    packed, index = [], 0
    while index < len(lengths):
        if lengths[index] <= room:
            packed.append(lengths[index])
            index += 1
        # A longer row neither fits nor is skipped.
    return packed


def main():
    zoo.warm_up()
    zoo.say_hang()
    print(pack([100, 700, 5000, 20], 2048))


main()
