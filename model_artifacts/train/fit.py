"""Fits a small classifier so that fitting it again gives the same predictions, on another machine too.

Training multiplies rounding errors by many orders of magnitude, and processors round differently (vector units add in
another order). In float32 two machines would end with visibly different models; in float64 what differs stays far
below what float32 can show (measured on digits with and without vector instructions: the held-out scores differ by
1e-15; with first weights drawn in float32 by 7e-2). So all is float64 and on one thread up to the finished weights, and
randomness is drawn only as uniform numbers and permutations from torch's own generator. The export is float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from model_artifacts.train.data import Split


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides a fit besides data and network. Chosen by cross-validation, see the README."""

    seed: int
    epochs: int
    batch: int
    peak_rate: float  # of the one-cycle schedule
    weight_decay: float
    label_smoothing: float


class Classifier(nn.Module):
    """Raw rows to logits while it is fitted, raw rows to probabilities in `forward`, which is what gets exported.

    A subclass writes its own `forward`, because the name of its argument becomes the name of the input.
    """

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def repeatable(seed: int) -> None:
    """Call before the network is built: its first weights are random too, and must be float64."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)


def fit(network: Classifier, split: Split, recipe: Recipe) -> None:
    """Train in place on the training rows; afterwards the network is float32 and ready to export."""
    rows, labels = torch.from_numpy(split.train).double(), torch.from_numpy(split.train_labels).long()
    assert all(p.dtype == torch.float64 for p in network.parameters()), "build the network after repeatable()"
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(rows) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, total_steps=steps)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(rows))
        for start in range(0, len(rows), recipe.batch):
            chosen = order[start : start + recipe.batch]
            optimizer.zero_grad()
            loss(network.logits(rows[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.float().eval()
