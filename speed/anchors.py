"""Fine-tuning a language model near its base (LwF): a step beside a plain one, and the memory beside plain LoRA's.

The floor of a step is a plain one and a bare forward pass of the old model. Each memory figure is a program of its
own, so that the peak is this training's alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from holdfast import CausalLM, LwF
from holdfast.bench.training import memory
from speed.rows import Row, cost
from speed.timing import Setup, alternate

__all__ = ["anchors"]

_WORDS, _ROWS, _LENGTH = 8000, 8, 64
_SLOWER, _LARGER = 1.45, 1.05
_SMALL, _LARGE, _QUICK = (4, 256), (14, 512), (1, 64)  # layers, width; the large one has 50 M parameters


def _model(layers: int, width: int, *, lora: bool, device: torch.device) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model in training, and a batch."""
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
    words = torch.randint(2, _WORDS, (_ROWS, _LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
    return model.to(device).train(), {"input_ids": words, "labels": words}


def _bare_forward(layers: int, width: int, *, lora: bool, device: torch.device) -> Callable[[], None]:
    """What the old answers cost without anything done to them."""
    model, batch = _model(layers, width, lora=lora, device=device)
    model.eval()

    def forward() -> None:
        with torch.no_grad(), model.disable_adapter() if lora else nullcontext():
            model(input_ids=batch["input_ids"])

    return forward


def _step(layers: int, width: int, teacher: str | None, *, lora: bool, device: torch.device) -> Callable[[], None]:
    """A step of training with or without the term; the model's own loss, AdamW."""
    model, batch = _model(layers, width, lora=lora, device=device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
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
    small, large = (_QUICK, _QUICK) if setup.quick else (_SMALL, _LARGE)
    cases = [(small, True, "base", _SLOWER), (large, True, "base", _SLOWER), (small, True, "copy", None),
             (small, False, "copy", None)]  # fmt: skip
    rows = [_beside_plain(setup, *case) for case in dict.fromkeys(cases)]
    return rows + (_memory(setup) if setup.device.type == "cpu" else [])


def _beside_plain(setup: Setup, size: tuple[int, int], lora: bool, teacher: str, target: float | None) -> Row:
    layers, width = size
    works = {
        name: _step(layers, width, which, lora=lora, device=setup.device)
        for name, which in (("plain", None), ("anchored", teacher))
    }
    works["bare"] = _bare_forward(layers, width, lora=lora, device=setup.device)
    timings = alternate(setup, works)
    kind = "LoRA" if lora else "all weights"
    model = f"GPT-2, {layers} layers of {width}, {_WORDS} words, batch {_ROWS} × {_LENGTH}"
    return cost(
        timings, "anchored", "plain", bench="anchors", work=f"step of LwF, teacher={teacher!r}, {kind}, {model}",
        device=setup.device.type, than=f"plain step, {kind}", target=target,
        floor=timings.median("plain") + timings.median("bare"),
    )  # fmt: skip


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
    layers, width = _QUICK if quick else _LARGE
    step = _step(layers, width, None if teacher == "none" else teacher, lora=True, device=torch.device("cpu"))
    memory.reset_peak(torch.device("cpu"))
    for _ in range(5):
        step()
    parameters = width * (_WORDS + _LENGTH) + layers * 12 * width**2
    print(json.dumps({"parameters": parameters, "peak": memory.peak_bytes(torch.device("cpu"))}))


if __name__ == "__main__":
    _main(sys.argv[1], quick="--quick" in sys.argv)
