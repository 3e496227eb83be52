"""report.html in a real browser: it renders, asks nobody for anything, and runs nothing that the job printed."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tell.founding import EVIL, SECRETS, founding_incident, ranks_incident
from unsloth_watch.tell.archive import write_incident
from unsloth_watch.tell.graph import make_picture
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.render import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH; fix: apt-get install chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
]


class Proxy(http.server.ThreadingHTTPServer):
    """Takes every request of the browser, notes its target, and lets none out."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        super().__init__(("127.0.0.1", 0), _Refuser)


class _Refuser(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.targets.append(self.path)
        self.send_error(403)

    do_CONNECT = do_POST = do_GET  # noqa: N815  names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing: the targets are the log."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = Proxy()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def browse(page: Path, proxy: Proxy, profile: Path) -> tuple[str, str]:
    """Return the page's DOM after its scripts had their time, and what the browser logged."""
    assert CHROMIUM is not None
    options = [f"--user-data-dir={profile}", f"--proxy-server=http://127.0.0.1:{proxy.server_address[1]}", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *FLAGS, *options, page.as_uri()], capture_output=True, check=True, timeout=90)
    return done.stdout.decode(), done.stderr.decode(errors="replace")


def foreign_targets(proxy: Proxy) -> list[str]:
    """Return what pages asked for; the browser's own calls home are not the page's."""
    return [target for target in proxy.targets if "192.0.2.1" in target]


def test_the_way_of_looking_sees_a_script_and_a_request(tmp_path: Path, proxy: Proxy) -> None:
    page = tmp_path / "evil.html"
    page.write_text(f"<!doctype html><title>fine</title>{EVIL.replace('onerror=alert(1)', '')}<script>nonsense()</script>")
    dom, log = browse(page, proxy, tmp_path / "profile")
    assert "<title>pwned</title>" in dom
    assert foreign_targets(proxy) == ["http://192.0.2.1/x.png"]
    assert "nonsense is not defined" in log


@pytest.mark.parametrize("make", [founding_incident, ranks_incident])
def test_the_page_renders_without_network_script_errors_or_foreign_code(make: object, tmp_path: Path, proxy: Proxy) -> None:
    assert callable(make)
    incident = make()
    directory = tmp_path / "01"
    write_incident(str(directory), incident, Redactor(SECRETS))
    assert main([str(directory)]) == 0
    dom, log = browse(directory / "report.html", proxy, tmp_path / "profile")
    assert f"<title>{incident.diagnosis.title} · unsloth-watch</title>" in dom
    assert "<script" not in dom
    assert "<img" not in dom
    report = json.loads((directory / "report.json").read_text())
    has_graph = bool(make_picture(report["waits"]).arrows)
    assert dom.count("<svg") == len(report["signals"]["series"]) + has_graph
    assert "</footer>" in dom
    assert foreign_targets(proxy) == []
    assert "CONSOLE" not in log
