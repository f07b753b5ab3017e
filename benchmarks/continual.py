"""The world of the continual-learning results: strings that are copied, sorted, reversed or shifted as a word says.

A sequence is

    BOS  word  x1 ... x6  =  y1 ... y6

of ten letters. Each task has four words that mean it. The base learns to copy, and which words go together, from lines
of words of one task. A skill is learnt from three of its words; it is measured with all four, the fourth unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BOS, EQUALS, LETTERS, FIRST = 1, 2, 10, 3
"""Tokens: 0 pads; letters begin at `FIRST`, words behind them."""
LENGTH, WORDS, SEEN = 6, 4, 3
"""Letters of a string; words of a task, and those that skills are learnt from."""
TASKS = ("copy", "sort", "reverse", "shift")
BASE, SKILLS = TASKS[0], TASKS[1:]
PROMPT = 3 + LENGTH
"""Tokens up to the `=`."""
SHAPE: Mapping[str, int] = {
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": BOS,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def answer(task: str, letters: Tensor) -> Tensor:
    """Return (n, LENGTH), what a task makes of letters 0 to 9; `shift`: each three further, modulo 10."""
    match task:
        case "sort":
            return letters.sort(1).values
        case "reverse":
            return letters.flip(1)
        case "shift":
            return (letters + 3) % LETTERS
        case _:
            return letters


def sequences(task: str, count: int, draws: torch.Generator, words: int = SEEN) -> Tensor:
    """Return (count, PROMPT + LENGTH) tokens, with the first `words` of the task's words."""
    letters = torch.randint(0, LETTERS, (count, LENGTH), generator=draws)
    said = FIRST + LETTERS + WORDS * TASKS.index(task) + torch.randint(0, words, (count, 1), generator=draws)
    start, sign = (torch.full((count, 1), token) for token in (BOS, EQUALS))
    return torch.cat([start, said, FIRST + letters, sign, FIRST + answer(task, letters)], 1)


def lines_of_words(count: int, draws: torch.Generator) -> Tensor:
    """Return (count, PROMPT + LENGTH) tokens: words of one task each."""
    of = torch.randint(0, len(TASKS), (count, 1), generator=draws)
    words = torch.randint(0, WORDS, (count, PROMPT + LENGTH - 1), generator=draws)
    return torch.cat([torch.full((count, 1), BOS), FIRST + LETTERS + WORDS * of + words], 1)


def new_model(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**SHAPE))


def opened(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder).eval()


@dataclass(frozen=True)
class Course:
    """How a model is trained: AdamW, cosine after a short warm-up."""

    steps: int
    batch: int = 128
    lr: float = 2e-3


def train(model: nn.Module, tasks: Sequence[str], course: Course, seed: int, words: bool = False) -> None:
    """Train on answers of tasks in equal parts; with `words` on lines of words as well, a fifth of each batch."""
    draws = torch.Generator().manual_seed(seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, course.lr, weight_decay=0.0)
    warm = max(1, course.steps // 20)
    model.train()
    for step in range(course.steps):
        rate = min((step + 1) / warm, 0.5 * (1 + torch.cos(torch.tensor(step / course.steps * torch.pi)).item()))
        for group in optimizer.param_groups:
            group["lr"] = course.lr * rate
        batch = torch.cat([sequences(task, course.batch // len(tasks), draws) for task in tasks])
        loss = answer_loss(model, batch)
        if words:
            line = lines_of_words(course.batch // 4, draws)
            loss = loss + 0.2 * cross_entropy(model(line).logits[:, :-1].flatten(0, 1), line[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    model.eval()


def answer_loss(model: nn.Module, batch: Tensor) -> Tensor:
    logits = model(batch).logits[:, PROMPT - 1 : -1]
    return cross_entropy(logits.flatten(0, 1), batch[:, PROMPT:].flatten())


def right(logits: Tensor, batch: Tensor) -> float:
    """Return the part of the answers that greedy decoding gets right whole: where every next token is the most likely
    behind the right ones before it."""
    return float((logits[:, PROMPT - 1 : -1].argmax(-1) == batch[:, PROMPT:]).all(1).float().mean())
