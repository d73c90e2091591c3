"""EWC in a loop of Accelerate: accumulation, clipping, and a checkpoint in the middle of the second task."""

from __future__ import annotations

import tempfile

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast


def points(task: int, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four classes; each task has them around places of its own, in sixteen dimensions."""
    places = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (number,), generator=draw)
    return places[task][y] + 0.5 * torch.randn(number, 16, generator=draw), y


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return (model(x).argmax(1) == y).float().mean().item()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))


def run(protected: bool) -> tuple[float, float]:
    """Accuracy on the old task, and on the new one, after both."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    loaders = [DataLoader(TensorDataset(*points(task, 512, seed=task + 1)), batch_size=16) for task in (0, 1)]
    net = network()
    model, optimizer, *loaders = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=1e-2), *loaders)
    keep = holdfast.EWC(model, strength=1e4)
    if protected:
        keep.attach(optimizer)
    with tempfile.TemporaryDirectory() as own:
        (folder,) = broadcast_object_list([own])  # the same one in all processes
        for task, loader in enumerate(loaders):
            for epoch in range(5):
                for x, y in loader:
                    with accelerator.accumulate(model):
                        outputs = model(x)
                        # Zero for a method that acts on gradients, such as this one: one loop serves all of them.
                        loss = nn.functional.cross_entropy(outputs, y) + keep.penalty((x, y), outputs)
                        accelerator.backward(loss)
                        if accelerator.sync_gradients:
                            accelerator.clip_grad_norm_(model.parameters(), 1.0)
                        optimizer.step()
                        optimizer.zero_grad()
                if task == 1 and epoch == 2:  # as if it stopped here: what is remembered comes back with the rest
                    accelerator.save_state(folder)
                    accelerator.wait_for_everyone()  # until the first process has written what all read
                    accelerator.load_state(folder)
            if protected and task == 0:
                keep.consolidate(loader)
    return accuracy(model, *points(0, 512, seed=3)), accuracy(model, *points(1, 512, seed=4))


if __name__ == "__main__":
    (old, new), (kept, learned) = run(protected=False), run(protected=True)
    say = PartialState().print  # once, however many processes there are
    say(f"old task: accuracy {old:.3f} without protection, {kept:.3f} with")
    say(f"new task: accuracy {new:.3f} without protection, {learned:.3f} with")
