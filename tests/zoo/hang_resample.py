"""Answers are sampled until one can be parsed, and none ever can."""

# /// zoo
# expect = "hang"
# causes = ["busy-loop"]
# culprit = ["sample_valid"]
# provable = false
# needs = ["transformers"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "busy"
# ///

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import zoo


def sample_valid(model):
    while True:
        prompt = torch.ones(1, 4, dtype=torch.long)
        answer = model.generate(prompt, max_new_tokens=5, do_sample=True, pad_token_id=0, eos_token_id=None)
        if answer[0, -1] == 1000:
            return answer


def main():
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **size)).eval()
    zoo.warm_up()
    zoo.say_hang()
    sample_valid(model)


main()
