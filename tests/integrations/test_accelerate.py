"""Accelerate, the real one: accumulation, clipping, checkpoints. Two processes are in ``test_launched``."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from holdfast import ConfigurationError
from holdfast.integrations.accelerate import register_for_checkpointing
from holdfast.testing.cases import same_state
from tests.integrations.launched import METHODS, NEW, OLD, network

RATE = 0.01


def prepared(name, micro=1, seed=0, register=False):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=micro)
    net = network(seed)
    keep = METHODS[name](net)
    model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=RATE))
    keep.attach(optimizer)
    if register:
        register_for_checkpointing(accelerator, keep)
    return accelerator, model, optimizer, keep


def steps(accelerator, model, optimizer, keep, data):
    for batch in data:
        with accelerator.accumulate(model):
            outputs = model(batch[0])
            accelerator.backward(F.cross_entropy(outputs, batch[1]) + keep.penalty(batch, outputs))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()


def by_hand(name, micro):
    net = network()
    keep = METHODS[name](net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    keep.attach(optimizer)
    for data in (OLD, NEW):
        for at in range(0, len(data), micro):
            optimizer.zero_grad()
            for batch in data[at : at + micro]:
                outputs = net(batch[0])
                loss = F.cross_entropy(outputs, batch[1]) / micro
                (loss + keep.penalty(batch, outputs, scale=1 / micro)).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
        keep.consolidate(data)
    return net


def far(one, two):
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("micro", [1, 4])
def test_accumulated_and_clipped_it_is_a_loop_by_hand(name, micro):
    assert len(OLD) % micro == len(NEW) % micro == 0
    accelerator, model, optimizer, keep = prepared(name, micro)
    for data in (OLD, NEW):
        steps(accelerator, model, optimizer, keep, data)
        keep.consolidate(data)
    assert keep.num_tasks == 2 and far(model, by_hand(name, micro)) < 1e-6


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("register", [False, True])
def test_a_resumed_run_is_an_undisturbed_one_to_the_bit(name, register, tmp_path):
    run = prepared(name, register=register)
    steps(*run, OLD)
    run[-1].consolidate(OLD)
    steps(*run, NEW[:2])
    (tmp_path / "holdfast_0.safetensors").write_bytes(b"of an earlier checkpoint in this folder")
    if not register:
        (tmp_path / "holdfast_0.safetensors").unlink()
    run[0].save_state(str(tmp_path))
    assert not list(tmp_path.glob("holdfast*"))  # it is in the optimizer's state, once
    steps(*run, NEW[2:])
    again = prepared(name, seed=5, register=register)
    again[0].load_state(str(tmp_path))
    steps(*again, NEW[2:])
    for each in (run, again):
        each[-1].consolidate(NEW)
    assert far(run[1], again[1]) == 0.0 and again[-1].num_tasks == 2
    assert same_state(run[-1].state_dict(), again[-1].state_dict())


def test_what_is_registered_must_be_a_method():
    accelerator = Accelerator(cpu=True)
    with pytest.raises(ConfigurationError, match="got no method"):
        register_for_checkpointing(accelerator)
    with pytest.raises(ConfigurationError, match="got a Linear"):
        register_for_checkpointing(accelerator, nn.Linear(2, 2))
