"""Batches from workers: the same as made in place, whatever memory they came through."""

from __future__ import annotations

import gc
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avtool.data import loader
from avtool.data.loader import Parcel, Receiver, Sender, collate


def views(count: int, seed: int = 0) -> list[dict]:
    generator = np.random.default_rng(seed)
    return [
        {
            "image": generator.integers(256, size=(3, 5, 7), dtype=np.uint8),
            "gain_db": np.float32(generator.random()),
            "index": 10 * seed + k,
            "paths": generator.random(3) < 0.5,
        }
        for k in range(count)
    ]


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


@pytest.fixture
def sender(monkeypatch) -> Sender:
    """One that is in worker 3."""
    monkeypatch.setattr(loader, "get_worker_info", lambda: SimpleNamespace(id=3, num_workers=4))
    return Sender()


def test_a_batch_comes_out_as_it_would_have_been_made_in_place(sender):
    receiver = Receiver(sender)
    for count in (4, 1, 9):
        parcel = sender.send(views(count))
        assert isinstance(parcel, Parcel) and same(parcel.unpacked(), collate(views(count)))
    assert list(receiver.slots) == [(3, 0)]


def test_slots_are_used_again_once_their_batch_is_out_and_batches_keep_their_values(sender):
    receiver, held = Receiver(sender), []
    first, second = sender.send(views(4, 0)), sender.send(views(4, 1))
    held += [first.unpacked(), second.unpacked()]
    third, fourth = sender.send(views(4, 2)), sender.send(views(4, 3))
    assert [parcel.slot[1] for parcel in (first, second, third, fourth)] == [0, 1, 0, 1]
    assert [parcel.memory is None for parcel in (first, second, third, fourth)] == [False, False, True, True]
    assert len(pickle.dumps(third)) < 1500
    held += [third.unpacked(), fourth.unpacked()]
    assert all(same(batch, collate(views(4, seed))) for seed, batch in enumerate(held))
    assert len(receiver.slots) == 2


def test_with_every_slot_full_batches_still_arrive(sender):
    receiver = Receiver(sender)
    sent = [sender.send(views(2, seed)) for seed in range(loader.SLOTS + 2)]
    assert [isinstance(item, Parcel) for item in sent] == [True] * loader.SLOTS + [False] * 2
    for seed, item in enumerate(sent):
        assert same(item.unpacked() if isinstance(item, Parcel) else item, collate(views(2, seed)))
    assert isinstance(sender.send(views(2)), Parcel) and receiver.slots


def test_nothing_is_held_once_a_loader_is_done(sender):
    receiver = Receiver(sender)
    sender.send(views(2)).unpacked()
    assert sender.number in Receiver.known
    del receiver
    gc.collect()
    assert sender.number not in Receiver.known


def test_outside_a_worker_a_batch_is_a_batch():
    assert same(Sender().send(views(3)), collate(views(3)))
