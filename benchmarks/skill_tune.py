"""SmolLM2-135M tuned for the skill of `benchmarks.skill_sql`: once with a LoRA, once all of it.

    python -m benchmarks.skill_tune lora --out out/repro-skill

transformers' Trainer does it: AdamW, a cosine, one pass over the examples, float32 (CPUs without bfloat16 units are far
slower in bfloat16), loss on the answers alone. It is seeded, and goes on from its last checkpoint when it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.repro_smollm2 import write_host
from benchmarks.skill_sql import Example, examples

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out" / "repro-skill"
RANK = 64
MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORED = -100
"""Label of a token that no loss is taken on."""


@dataclass(frozen=True)
class Setting:
    """How one model is tuned. `steps` batches of `batch` examples, each example seen once."""

    rate: float
    steps: int
    batch: int = 8
    seed: int = 0


SETTINGS = {"full": Setting(1e-4, 120), "lora": Setting(5e-4, 64)}


def host(out: Path) -> Path:
    """Return the base, written once."""
    if not (out / "base" / "tokenizer.json").exists():
        write_host(out / "base")
    return out / "base"


def encoded(tokenizer: Any, some: Sequence[Example]) -> list[dict[str, list[int]]]:
    """Return ids and labels of each example: prompt and answer are tokenized apart, so that their border stays."""
    found = []
    for example in some:
        prompt = tokenizer(example.prompt)["input_ids"]
        answer = [*tokenizer(example.answer)["input_ids"], tokenizer.eos_token_id]
        found.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return found


def batched(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, Tensor]:
    """Return rows of equal length, padded on the right."""
    most = max(len(row["input_ids"]) for row in rows)

    def filled(key: str, value: int) -> Tensor:
        return torch.tensor([row[key] + [value] * (most - len(row[key])) for row in rows])

    ids = filled("input_ids", pad)
    real = torch.tensor([[1] * len(row["input_ids"]) + [0] * (most - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": real, "labels": filled("labels", IGNORED)}


def tune(kind: str, out: Path) -> Path:
    """Return the folder of a tuned model (`full`) or of its adapter (`lora`), made unless it is there."""
    target = out / kind
    if target.exists():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, set_seed

    setting = SETTINGS[kind]
    set_seed(setting.seed)
    tokenizer = AutoTokenizer.from_pretrained(host(out))
    model: Any = AutoModelForCausalLM.from_pretrained(host(out), dtype=torch.float32)
    if kind == "lora":
        model = with_lora(model)
    rows = encoded(tokenizer, examples(setting.steps * setting.batch, setting.seed, held=False))
    work = out / f"{kind}-work"
    trainer = Trainer(
        model=model,
        args=arguments(setting, work),
        train_dataset=rows,
        data_collator=lambda some: batched(some, tokenizer.eos_token_id),
        callbacks=[clock(work)],
    )
    trainer.train(resume_from_checkpoint=bool(list(work.glob("checkpoint-*"))))
    model.save_pretrained(out / f"{kind}-part")
    (out / f"{kind}.json").write_text(json.dumps({**asdict(setting), "seconds": spent(work)}), "utf-8")
    (out / f"{kind}-part").rename(target)
    shutil.rmtree(work)
    return target


def with_lora(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(MAPS), task_type="CAUSAL_LM"))


def arguments(setting: Setting, work: Path) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(work),
        max_steps=setting.steps,
        per_device_train_batch_size=setting.batch,
        learning_rate=setting.rate,
        lr_scheduler_type="cosine",
        warmup_steps=setting.steps // 10,
        weight_decay=0.0,
        optim="adamw_torch_fused",
        use_cpu=True,
        seed=setting.seed,
        save_steps=setting.steps // 4,
        save_total_limit=1,
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def spent(work: Path) -> float:
    """Return the CPU seconds that were spent up to the last checkpoint."""
    path = work / "seconds"
    return float(path.read_text()) if path.exists() else 0.0


def clock(work: Path) -> Any:
    """Return what adds up CPU seconds over interruptions."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.before, self.start = spent(work), time.process_time()

        def on_save(self, *_: Any, **__: Any) -> None:
            (work / "seconds").write_text(str(self.before + time.process_time() - self.start))

    return Clock()


def main() -> None:
    parser = argparse.ArgumentParser(description="Tune SmolLM2-135M for a small skill.")
    parser.add_argument("kind", choices=SETTINGS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"wrote {tune(options.kind, options.out)}")


if __name__ == "__main__":
    main()
