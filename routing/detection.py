"""The bad adapter as a detector: it learns from labelled examples alone, and tells which others are like it.

The score of an example is what bad takes off the base's loss, in nats per token: the log-likelihood ratio of
the two models. A part of the labelled examples is not trained on, and says how high the score must be.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from adapters import Route, routed
from lab.errors import BadInput
from routing.batches import Example, batch_order, collate
from routing.losses import example_losses, held_out_losses
from routing.models import evaluating
from routing.optimizer import RoutedOptimizer

BAD_ALONE, BASE = Route(update_good=False, good_scale=0.0), Route(good_scale=0.0, bad_scale=0.0)


def label_detected(
    model: nn.Module,
    examples: Sequence[Example],
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    recall: float = 0.95,
) -> list[Example]:
    """The examples; unlabelled ones that are like those labelled "bad" get the label "detected".

    Bad is trained by itself on every other labelled example. The threshold is the score that the share
    `recall` of the rest of them reaches. Afterwards bad is a trained detector; good is as it was. Raises
    BadInput if fewer than four examples are labelled."""
    labelled = [example for example in examples if example.label == "bad"]
    unlabelled = [i for i, example in enumerate(examples) if example.label is None]
    if len(labelled) < 4:
        raise BadInput(f"a detector needs 4 labelled examples or more, not {len(labelled)}")
    train_bad_alone(model, labelled[::2], steps, batch_size, learning_rate, seed)
    threshold = np.quantile(scores(model, labelled[1::2]), 1 - recall, method="lower")
    found = dict(zip(unlabelled, scores(model, [examples[i] for i in unlabelled]), strict=True))
    return [
        replace(example, label="detected") if found.get(i, -np.inf) >= threshold else example
        for i, example in enumerate(examples)
    ]


def train_bad_alone(
    model: nn.Module,
    examples: Sequence[Example],
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Train the bad adapter with good ablated, at a constant learning rate; draws no random numbers."""
    device = next(model.parameters()).device
    optimizer = RoutedOptimizer(model, learning_rate)
    # without dropout, whose random numbers the training that follows would miss
    with evaluating(model):
        for rows in batch_order([example.bucket_size for example in examples], batch_size, steps, seed):
            batch = collate([examples[i] for i in rows], device)
            with routed(model, [BAD_ALONE] * len(rows)):
                example_losses(model, batch).mean().backward()
            optimizer.step()


@torch.no_grad()
def scores(model: nn.Module, examples: Sequence[Example]) -> list[float]:
    """Each example's loss in the base minus its loss with bad alone, in nats per token."""
    base, bad = (held_out_losses(model, examples, route) for route in (BASE, BAD_ALONE))
    return [without - with_bad for without, with_bad in zip(base, bad, strict=True)]
