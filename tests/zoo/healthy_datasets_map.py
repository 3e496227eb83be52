"""datasets.map with two forked workers and a slow function."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "2*S + 10"
# needs = ["datasets"]
# stdin = "null"
# ///

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets

import zoo


def tokenize(row):
    zoo.compute(4 * zoo.stall() / 200)
    return {"length": len(row["text"])}


rows = datasets.Dataset.from_dict({"text": ["a b c"] * 200})
assert len(rows.map(tokenize, num_proc=2, new_fingerprint="zoo")) == 200
zoo.finish()
