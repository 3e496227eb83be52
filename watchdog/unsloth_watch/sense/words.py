"""Words around a number that say whether it counts work, or grows while nothing gets done."""

from __future__ import annotations

COUNTERS = frozenset(
    {"step", "steps", "global_step", "iter", "iters", "iteration", "iterations", "epoch", "epochs", "batch", "batches", "it",
     "sample", "samples", "token", "tokens", "example", "examples", "row", "rows", "record", "records", "file", "files", "shard",
     "shards", "document", "documents", "docs", "item", "items", "image", "images", "request", "requests", "reqs", "line", "lines",
     "update", "updates", "round", "episode", "rollout", "prompt", "prompts", "sequence", "sequences", "chunk", "chunks", "page",
     "pages", "layer", "tensor", "tensors", "block", "trial", "fold", "generation", "checkpoint", "loss", "downloaded", "processed",
     "completed", "done", "written", "read", "part", "parts", "task", "tasks", "game", "games", "frame", "frames",
     "perplexity", "ppl", "rmse", "mse", "mae", "reward", "accuracy", "acc", "bleu", "bpb"}
)  # fmt: skip
"""Words that name a counter without a sign between (``step 12``), and units behind one (``12 samples``)."""
NEVER = frozenset(
    {"time", "timestamp", "ts", "date", "datetime", "elapsed", "eta", "remaining", "left", "duration", "runtime", "seconds",
     "second", "secs", "sec", "ms", "minutes", "hours", "latency", "took", "wall", "uptime", "age", "since", "after", "every",
     "interval", "mem", "memory", "vram", "ram", "rss", "alloc", "allocated", "reserved", "swap", "heap", "cache", "cached",
     "free", "disk", "gpu", "gpus", "cuda", "cpu", "cpus", "util", "utilization", "utilisation", "usage", "used", "load", "temp",
     "temperature", "power", "watts", "fan", "clock", "mhz", "pid", "ppid", "tid", "process", "thread", "port", "rank", "host",
     "node", "device", "speed", "throughput", "tps", "fps", "qps", "per", "rate", "bandwidth", "seed", "version", "python",
     "torch", "proc", "line", "mfu", "errno", "code", "status", "signal", "exitcode", "id", "bit", "trained", "heartbeat", "tick",
     "poll", "ping", "attempt", "attempts", "retry", "retries", "try", "tries", "timeout"}
)  # fmt: skip
"""Words that name what grows, or swings, while nothing gets done."""
STATES = (
    NEVER - {"line", "left", "remaining", "eta", "elapsed", "time", "after", "load", "process", "proc", "cached", "device", "node"}
) | {"accuracy", "acc", "hit"}
"""The same around a share: ``12/100 elapsed 0:12``, ``Load 12/100`` and ``process 12/100`` do count something."""
MEMORY = frozenset({"gpu", "gpus", "mem", "memory", "vram", "ram", "swap", "disk"})
MOVED = frozenset({"downloaded", "uploaded", "written", "wrote", "read", "copied", "received", "processed", "transferred"})
KEPT_RATES = frozenset({"learning_rate"})
FUTILE = frozenset(
    {"not", "fail", "failed", "fails", "failure", "failing", "error", "errors", "exception", "refused", "unreachable",
     "unavailable", "pending", "probe", "probing", "reconnecting", "restarting", "restarted", "monitor", "monitoring", "watching",
     "health", "wait", "waiting", "beat", "pulse", "spawned", "started", "killed", "died", "dead", "aborted",
     "terminated", "dumped", "exited", "respawned", "checking"}
)  # fmt: skip
"""Words of a line whose index counts what is tried or looked at, not what is done."""
