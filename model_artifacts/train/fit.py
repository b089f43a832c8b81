"""Fits a small classifier so that fitting it again gives the same predictions, on another machine too.

Training multiplies rounding errors by many orders of magnitude, and processors round differently (their vector units add
in another order). In float32 two machines would end with visibly different models; in float64 what differs stays far
below what float32 can show. So the fit runs in float64 on one thread, draws randomness only as uniform numbers and
permutations from torch's own generator, and the caller exports in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from model_artifacts.train.data import Split


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides a fit besides data and network. Chosen by cross-validation on the training rows only."""

    seed: int
    epochs: int
    batch: int
    peak_rate: float  # of the one-cycle schedule
    weight_decay: float
    label_smoothing: float


def repeatable(seed: int) -> None:
    """Call before the network is built: its first weights are random too."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def fit(network: nn.Module, split: Split, recipe: Recipe) -> None:
    """Train `network` (raw rows to logits) in place on the training rows. It is float32 again afterwards."""
    network.double().train()
    rows, labels = torch.from_numpy(split.train).double(), torch.from_numpy(split.train_labels).long()
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(rows) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, total_steps=steps)
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(rows)).split(recipe.batch):
            optimizer.zero_grad()
            loss(network(rows[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.float().eval()


class Scores(nn.Module):
    """The network as it is served: probabilities instead of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network(rows), dim=1)
