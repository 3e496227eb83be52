"""A tiny real fine-tune with transformers' Trainer, two checkpoints and an evaluation."""

# /// zoo
# expect = "healthy"
# lives_by = "work counter"
# seconds = "40"
# needs = ["transformers"]
# stdin = "null"
# ///

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import zoo


class Rows(torch.utils.data.Dataset):
    """Random tokens."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        ids = torch.randint(0, 64, (32,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids}


size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **size))
arguments = TrainingArguments(
    str(zoo.directory() / "out"),
    per_device_train_batch_size=4,
    max_steps=40,
    logging_steps=5,
    save_steps=20,
    eval_strategy="steps",
    eval_steps=20,
    report_to=[],
    use_cpu=True,
)
Trainer(model=model, args=arguments, train_dataset=Rows(), eval_dataset=Rows()).train()
zoo.finish()
