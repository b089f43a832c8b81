"""Which rows a model is trained on and which are held out. Free of torch: tests judge an artifact without it.

The rows come with scikit-learn, so nothing is downloaded. The split is drawn from NumPy's RandomState, whose stream is
frozen by NumPy's own policy: the same rows are held out under every version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, load_wine

Array = np.ndarray[Any, Any]
SPLIT_SEED = 0


@dataclass(frozen=True, slots=True)
class Split:
    """Rows as users post them (no scaling), and their classes."""

    source: str
    train: Array
    train_labels: Array
    held_out: Array
    held_out_labels: Array
    sha256: str  # of all rows and labels, so that a changed data set is noticed

    def accuracy(self, scores: Array) -> float:
        """Share of the held-out rows whose highest score is their class."""
        assert scores.shape[0] == len(self.held_out_labels), "scores must be those of the held-out rows"
        return float(np.mean(scores.argmax(axis=1) == self.held_out_labels))


def digits() -> Split:
    """1797 handwritten digits of 8x8 pixels, 0 (paper) to 16 (ink); 360 of them held out."""
    data = load_digits()
    return _split("sklearn.datasets.load_digits", data.images, data.target, held_out=360)


def wine() -> Split:
    """178 wines of three growers with 13 chemical measurements each; 45 of them held out."""
    data = load_wine()
    return _split("sklearn.datasets.load_wine", data.data, data.target, held_out=45)


def _split(source: str, rows: Array, labels: Array, held_out: int) -> Split:
    order = np.random.RandomState(SPLIT_SEED).permutation(len(rows))
    out, kept = order[:held_out], order[held_out:]
    digest = hashlib.sha256(rows.astype("<f8").tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    return Split(source, rows[kept], labels[kept], rows[out], labels[out], digest)
