"""A real Unsloth fine-tune that needs no network, and hangs on demand: the job of ``scenarios.py``, for a machine with a GPU.

    python finetune.py PLACE [--mode healthy|lock|spin|busy] [--steps 24] [--hang-at 14] [--four-bit] [--batch 8] [--block 20]

A Llama of 0.77 billion random weights is made once in PLACE (30 s on an H100), then trained with LoRA. The hang comes at the end of
a step, in the first attempt alone: ``lock`` blocks the host on a lock that nobody frees, ``spin`` waits for a kernel that never
ends (it needs cupy), ``busy`` spins the host.

``--block N`` measures what the supervisor costs: it is stopped (SIGSTOP) for every other N steps of one and the same run, so that
each pair of neighbouring blocks differs in nothing else.
"""
# ruff: noqa: PLC0415 - the base model is made before the heavy imports, and unsloth must come before what it patches

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1", WANDB_MODE="disabled")

import torch

BEGAN = time.monotonic()
ROWS = 4000


def say(*words: object) -> None:
    """Print a line that says when."""
    print(f"## {time.time():.3f} {time.monotonic() - BEGAN:.1f}s", *words, flush=True)


def sentence(number: int) -> str:
    return f"question {number} the answer is {number * 7 % 13} because of reason {number % 5}. "


def make_base(folder: str) -> None:
    """Write a model and a tokenizer, unless they are there."""
    if os.path.exists(f"{folder}/config.json"):
        return
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(map(sentence, range(2000)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=2048, **special)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    fast.save_pretrained(folder)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    say("base model made")


def hang(mode: str) -> None:
    """Stop here for ever."""
    say("HANG", mode)
    if mode == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif mode == "spin":
        import cupy

        kernel = cupy.RawKernel(r'extern "C" __global__ void spin(volatile int* flag) { while (*flag == 0) {} }', "spin")
        flag = cupy.zeros(1, dtype=cupy.int32)
        kernel((8,), (128,), (flag,))
        torch.cuda.synchronize()
    else:
        while True:
            pass


class Pauses:
    """Stops the supervisor in every other block of steps, and times the blocks.

    Args:
        length: Steps of a block; the first block warms up and counts for nothing.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._supervisor = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])
        self._began = 0.0
        self._cpu_s = 0.0
        self._blocks: list[tuple[bool, float]] = []
        self._is_paused = False
        self._share: list[float] = []

    def step(self, number: int) -> None:
        """Take note of the end of a step."""
        if number % self._length:
            return
        now, cpu_s = time.monotonic(), self._read_cpu_s()
        if number > self._length:
            self._blocks.append((self._is_paused, (now - self._began) / self._length))
            if not self._is_paused:
                self._share.append((cpu_s - self._cpu_s) / (now - self._began))
        self._is_paused = not self._is_paused if number > self._length else False
        os.kill(self._supervisor, signal.SIGSTOP if self._is_paused else signal.SIGCONT)
        self._began, self._cpu_s = time.monotonic(), self._read_cpu_s()

    def end(self) -> None:
        """Let the supervisor go on, and tell the times."""
        os.kill(self._supervisor, signal.SIGCONT)
        pairs = [(watched, bare) for (_, watched), (_, bare) in zip(self._blocks[::2], self._blocks[1::2], strict=False)]
        ratios = sorted(watched / bare for watched, bare in pairs)
        say("BLOCKS", json.dumps({"pairs": pairs, "ratio": ratios, "cpu": [round(share, 5) for share in self._share]}))

    def _read_cpu_s(self) -> float:
        fields = Path(f"/proc/{self._supervisor}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def train(options: argparse.Namespace) -> None:
    base = f"{options.place}/base"
    make_base(base)
    say("import unsloth")
    import unsloth  # noqa: F401 - it must come before transformers and trl
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer
    from unsloth import FastLanguageModel

    say("load")
    model, tokenizer = FastLanguageModel.from_pretrained(
        base,
        max_seq_length=512,
        dtype=torch.bfloat16,
        load_in_4bit=options.four_bit,
        local_files_only=True,
    )
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, target_modules=layers, use_gradient_checkpointing="unsloth"
    )
    is_to_hang = options.mode != "healthy" and os.environ.get("UNSLOTH_WATCH_ATTEMPT", "1") == "1"

    pauses = Pauses(options.block) if options.block else None

    class Steps(TrainerCallback):
        def on_step_begin(self, args: object, state: object, control: object, **more: object) -> None:
            self.began = time.monotonic()

        def on_step_end(self, args: object, state: object, control: object, **more: object) -> None:
            times.append(time.monotonic() - self.began)
            if pauses is not None:
                torch.cuda.synchronize()
                pauses.step(state.global_step)
            if is_to_hang and state.global_step == options.hang_at:
                hang(options.mode)

    times: list[float] = []
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"text": [sentence(number) * 12 for number in range(ROWS)]}),
        callbacks=[Steps()],
        args=SFTConfig(
            output_dir=f"{options.place}/out",
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            gradient_accumulation_steps=1,
            logging_steps=20 if options.block else 5,
            save_strategy="no",
            report_to=[],
            max_length=512,
            bf16=True,
            dataset_num_proc=4,
            eval_strategy="no",
        ),
    )
    say("train")
    trainer.train()
    # The first steps compile and warm up.
    steady = sorted(times[5:])
    if steady:
        say(f"STEPS {len(steady)} median {steady[len(steady) // 2]:.5f} total {sum(steady):.4f}")
    if pauses is not None:
        pauses.end()
    say("done", torch.cuda.max_memory_allocated() >> 20, "MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place")
    parser.add_argument("--mode", choices=("healthy", "lock", "spin", "busy"), default="healthy")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--hang-at", type=int, default=14)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--block", type=int, default=0)
    parser.add_argument("--four-bit", action="store_true")
    options = parser.parse_args()
    options.place = os.path.abspath(options.place)
    os.makedirs(options.place, exist_ok=True)
    os.chdir(options.place)
    train(options)


if __name__ == "__main__":
    main()
