"""What a runner tells a pipeline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from archspec.runtime.features.runners import Ask, PipelineRunner


class Pipe:
    """The part of a pipeline that a runner looks at."""

    def __init__(self, *read: int) -> None:
        parts = [SimpleNamespace(model_max_length=length) for length in read]
        self.components = {f"tokenizer_{number}": part for number, part in enumerate(parts)} | {"tokenizer_9": None}
        self.transformer = SimpleNamespace(dtype=torch.float32, config=SimpleNamespace())

    def set_progress_bar_config(self, disable: bool) -> None:
        pass

    def __call__(self, max_sequence_length: int = 512, **given: Any) -> Any:
        raise AssertionError("only its signature is read")


@pytest.mark.parametrize(("read", "told"), [((77, 512), 512), ((16, 16), 16), ((77, 10**30), 512), ((), 512)])
def test_prompts_are_padded_no_longer_than_tokenizers_read(read: tuple[int, ...], told: int) -> None:
    assert (
        PipelineRunner(Pipe(*read))._keywords(Ask("a cat", steps=3), torch.zeros(2, 4))["max_sequence_length"] == told
    )
