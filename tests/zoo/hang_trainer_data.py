"""transformers' Trainer: the data set waits for a tokenizer thread that failed."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait"]
# culprit = ["__getitem__", "tokenized"]
# provable = true
# needs = ["transformers"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import zoo


class Rows(torch.utils.data.Dataset):
    """Rows that a thread tokenizes."""

    def __init__(self):
        self.tokenized = [threading.Event() for _ in range(200)]

    def tokenize(self):
        for index, event in enumerate(self.tokenized):
            if index == 20:
                zoo.say_hang()
                raise ValueError("row 20 is not valid UTF-8")
            event.set()

    def __len__(self):
        return 200

    def __getitem__(self, index):
        self.tokenized[index].wait()
        ids = torch.arange(16) % 60
        return {"input_ids": ids, "labels": ids}


class InOrder(Trainer):
    """Rows in their order, as for streamed data."""

    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def main():
    zoo.warm_up(steps=2)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **size))
    rows = Rows()
    arguments = TrainingArguments(
        str(zoo.directory() / "out"), per_device_train_batch_size=2, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True
    )
    trainer = InOrder(model=model, args=arguments, train_dataset=rows)
    threading.Timer(1.0, rows.tokenize).start()
    trainer.train()


main()
