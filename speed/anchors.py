"""Fine-tuning a language model near its base (LwF): a step beside a plain one, and the memory beside plain LoRA's.

Each memory figure is a program of its own, so that the peak is this training's alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from holdfast import CausalLM, LwF
from holdfast.bench.training import memory
from speed.rows import Row, cost
from speed.timing import Setup, alternate

__all__ = ["anchors"]

_WORDS, _ROWS, _LENGTH = 8000, 8, 64
_SLOWER, _LARGER = 1.45, 1.05


def _step(layers: int, width: int, teacher: str | None, *, lora: bool, device: torch.device) -> Callable[[], None]:
    """A step of training with or without the term; the model's own loss, AdamW."""
    import peft  # slow to import, and only this benchmark needs them
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=_WORDS, n_embd=width, n_layer=layers, n_head=width // 64 or 1, n_positions=_LENGTH, bos_token_id=1,
        eos_token_id=1, loss_type="ForCausalLM",
    )  # fmt: skip
    model: Any = transformers.GPT2LMHeadModel(config)
    if lora:
        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear", fan_in_fan_out=True))
    model = model.to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    words = torch.randint(2, _WORDS, (_ROWS, _LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
    batch = {"input_ids": words, "labels": words}
    keep = None
    if teacher is not None:
        keep = LwF(model, strength=1.0, temperature=1.0, teacher=teacher, objective=CausalLM(per="token"))  # type: ignore[arg-type]  # one of the two
        keep.consolidate()
        keep.attach(optimizer)

    def step() -> None:
        out = model(**batch)
        loss = out.loss if keep is None else out.loss + keep.penalty(batch, out)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def anchors(setup: Setup) -> list[Row]:
    """Steps beside plain ones, and peaks of memory beside plain LoRA's."""
    layers, width = (1, 64) if setup.quick else (4, 256)
    size = f"GPT-2, {layers} layers of {width}, {_WORDS} words, batch {_ROWS} × {_LENGTH}"
    rows = []
    for lora, teacher, target in ((True, "base", _SLOWER), (True, "copy", None), (False, "copy", None)):
        works = {
            name: _step(layers, width, which, lora=lora, device=setup.device)
            for name, which in (("plain", None), ("anchored", teacher))
        }
        kind = "LoRA" if lora else "all weights"
        work = f"step of LwF, teacher={teacher!r}, {kind}, {size}"
        rows.append(
            cost(alternate(setup, works), "anchored", "plain", bench="anchors", work=work, device=setup.device.type,
                 than=f"plain step, {kind}", target=target)
        )  # fmt: skip
    return rows + (_memory(setup) if setup.device.type == "cpu" else [])


def _memory(setup: Setup) -> list[Row]:
    found = {}
    for teacher in ("none", "base", "copy"):
        command = [sys.executable, "-m", "speed.anchors", teacher, *(["--quick"] if setup.quick else [])]
        found[teacher] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    size = f"{found['none']['parameters'] / 1e6:.1f} M-parameter GPT-2"
    mib = 2**20
    return [
        Row("anchors", f"resident memory of LoRA with LwF, teacher={teacher!r}, {size}", "cpu",
            f"plain LoRA, {found['none']['peak'] / mib:.0f} MiB", found[teacher]["peak"] / found["none"]["peak"],
            "times as much", target, note=f"{found[teacher]['peak'] / mib:.0f} MiB at the peak of five steps")
        for teacher, target in (("base", _LARGER), ("copy", None))
    ]  # fmt: skip


def _main(teacher: str, *, quick: bool) -> None:
    layers, width = (1, 64) if quick else (14, 512)
    step = _step(layers, width, None if teacher == "none" else teacher, lora=True, device=torch.device("cpu"))
    memory.reset_peak(torch.device("cpu"))
    for _ in range(5):
        step()
    parameters = width * (_WORDS + _LENGTH) + layers * 12 * width**2
    print(json.dumps({"parameters": parameters, "peak": memory.peak_bytes(torch.device("cpu"))}))


if __name__ == "__main__":
    _main(sys.argv[1], quick="--quick" in sys.argv)
