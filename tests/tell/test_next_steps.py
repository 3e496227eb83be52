"""Steps that a reader copies: shown as code that says what was meant, and no markup can get out of it."""

from __future__ import annotations

import pytest

from unsloth_watch.tell.markup import mark_code

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        ("pip install -U 'unsloth_zoo>=2025.3.14'", "`pip install -U 'unsloth_zoo>=2025.3.14'`"),
        ("kill -CONT 4242", "`kill -CONT 4242`"),
        ("find the holder: fuser /tmp/a_b/x.lock", "find the holder: `fuser /tmp/a_b/x.lock`"),
        (
            "use fewer workers (num_proc, dataset_num_proc); see dmesg",
            "use fewer workers (`num_proc`, `dataset_num_proc`); see dmesg",
        ),
        ("use subprocess.run(capture_output=True) or join()", "use `subprocess.run(capture_output=True)` or join()"),
        ("start with --stdin null.", "start with `--stdin` null."),
        ("make /data/a`b_c writable", "make ``/data/a`b_c`` writable"),
        ("ask @somebody & wait", "ask @\u2060somebody &amp; wait"),
    ],
)
def test_what_is_to_be_copied_is_code_and_the_rest_is_prose(step: str, shown: str) -> None:
    assert mark_code(step) == shown
