"""The bytes on which a real SQLite has its locks, as the kernel shows them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from unsloth_watch.capture.locks import read_locks
from unsloth_watch.diagnose.database import is_database_lock
from unsloth_watch.model.evidence import FileLock

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(("mode", "suffix"), [("DELETE", ""), ("WAL", "-shm")])
def test_an_open_transaction_is_known_by_the_bytes_of_its_lock(tmp_path: Path, mode: str, suffix: str):
    path = tmp_path / "trials.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("CREATE TABLE trials (loss REAL)")
        assert not list_written(f"{path}{suffix}")
        database.execute("BEGIN IMMEDIATE")
        assert list_written(f"{path}{suffix}")
        database.execute("ROLLBACK")


def list_written(path: str) -> list[FileLock]:
    """Return the locks of a writer that this process has on a file."""
    if not os.path.exists(path):
        return []
    inode = os.stat(path).st_ino
    own = [
        FileLock(line.kind, line.mode, line.pid, path=path, device=line.device, inode=line.inode, start=line.start)
        for line in read_locks()
        if line.pid == os.getpid() and line.inode == inode and line.mode == "WRITE"
    ]
    return [lock for lock in own if is_database_lock(lock)]
