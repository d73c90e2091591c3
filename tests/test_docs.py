"""What the pages of the methods print as code runs, on a small model with two heads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import holdfast
from holdfast import Classification

PAGES = sorted((Path(__file__).parent.parent / "docs" / "methods").glob("*.md"))
CODE = {
    page.stem: found for page in PAGES if (found := re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> list[Tensor]:
        hidden = torch.relu(self.encoder(x))
        return [head(hidden) for head in self.heads]


class Single(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


@pytest.mark.parametrize("name", CODE)
def test_the_code_of_a_page_runs(name: str) -> None:
    torch.manual_seed(0)
    code = "\n".join(CODE[name])
    model = Single() if "head=" not in code else Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(12, 4), torch.randint(0, 3, (12,))
    task = [(x[:6], y[:6]), (x[6:], y[6:])]
    names: dict[str, Any] = {"model": model, "optimizer": optimizer, "tasks": [task, task], "task_data": task}
    names |= {"x": x, "y": y, "torch": torch, "holdfast": holdfast, "Classification": Classification}

    def train(batches: list[tuple[Tensor, Tensor]] = task) -> None:
        for inputs, targets in batches:
            raw = model(inputs)
            loss = F.cross_entropy(raw if isinstance(raw, Tensor) else raw[0], targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def cross_entropy(raw: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(raw if isinstance(raw, Tensor) else raw[0], targets)

    names |= {"train": train, "test": train, "F": type("F", (), {"cross_entropy": staticmethod(cross_entropy)})}
    # The dots of a page stand for training.
    exec(re.sub(r"^\.\.\.", "train()", code, flags=re.MULTILINE), names)


def test_every_page_but_those_of_the_plain_baselines_shows_code() -> None:
    assert {page.stem for page in PAGES} - set(CODE) == {"finetune", "joint", "index"}
