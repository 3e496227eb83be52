"""torch.utils.cpp_extension.load meets the lock of a build that was killed."""

# /// zoo
# expect = "hang"
# causes = ["stale-lock-file"]
# culprit = ["FileBaton", "file_baton", "_jit_compile"]
# provable = false  # whoever removes the file ends it
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

from torch.utils import cpp_extension

import zoo


def main():
    zoo.warm_up()
    build = zoo.directory() / "build"
    build.mkdir()
    (build / "lock").touch()
    source = build / "rope.cpp"
    source.write_text("#include <torch/extension.h>\nPYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {}\n")
    zoo.say_hang()
    cpp_extension.load(name="rope", sources=[str(source)], build_directory=str(build))


main()
