"""A guess at what the job is in, from the innermost frames of the newest looks and from what the output counts."""

from __future__ import annotations

from unsloth_watch.model.sample import Look, Reading

# (phase, words in a frame's "function (file:line)"), the most telling first.
_FRAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("exit", ("_shutdown (", "atexit", "_exitfunc")),
    ("compile", ("torch/_inductor", "torch/_dynamo", "/triton/", "unsloth_zoo/compiler.py", "cpp_extension")),
    ("download", ("huggingface_hub/", "hf_transfer", "hf_xet", "urllib3/", "requests/")),
    ("tokenize", ("datasets/", "tokenization_utils")),
    ("save", ("save_pretrained", "_save_checkpoint", "torch/serialization.py", "save_file (")),
    ("eval", ("evaluation_loop (", "prediction_step (")),
    ("load", ("modeling_utils.py", "safetensors", "load_state_dict", "from_pretrained")),
    ("train", ("training_step (", "_inner_training_loop", "backward (", "optimizer_step", "torch/optim")),
    ("import", ("<frozen importlib._bootstrap",)),
)
_COUNTED_AS_TRAINING = frozenset({"loss", "grad_norm", "step", "global_step", "epoch", "iter", "train_loss"})


def guess_phase(before: str, looks: tuple[Look, ...], readings: tuple[Reading, ...]) -> tuple[str, str]:
    """Return the phase and what it was guessed from: ``stack``, ``output`` or ``before``."""
    for look in reversed(looks):
        for phase, words in _FRAMES:
            if any(word in frame for frame in look.top for word in words):
                return phase, "stack"
    names = {reading.name for reading in readings}
    if names & {"eval_loss"}:
        return "eval", "output"
    if names & _COUNTED_AS_TRAINING:
        return "train", "output"
    return before, "before"
