"""Asking a supervisor in the moment of its end."""

from __future__ import annotations

import select
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unsloth_watch.supervise.control import ControlSocket
from unsloth_watch.supervise.request import NotRunningError, ask

pytestmark = pytest.mark.quick


def test_who_asks_a_run_that_ends_before_his_turn_hears_that_it_is_over(tmp_path: Path) -> None:
    poller = select.poll()
    control = ControlSocket(str(tmp_path), poller, lambda _: pytest.fail("nobody was to be answered"))
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, str(tmp_path), "show")
        poller.poll()  # he has connected
        control.close()
        with pytest.raises(NotRunningError, match="over"):
            asking.result()
