"""The residual stream at a prompt's last token, and the directions in it that part two kinds of prompts.

The prompts of the two kinds come in pairs, which differ in the behaviour alone: a prefix in capitals, and the
same one as it is. Three directions part them: the difference of their means, the first principal component of
all, and the weights of a linear probe. What a probe can read the layers above need not use: it says that the
behaviour is there to be seen, not that the model acts on it.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from adapters import Route, routed
from adapters.structure import decoder_stack
from lab.errors import BadInput
from routing.batches import Example, collate, prompt_ids

FOLDS = 5  # of the cross-validation, as far as there are units


@contextmanager
def residual_streams(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect, in a forward pass inside the block, what enters the first decoder layer and leaves each one.

    Yields a list that gets layers + 1 tensors [batch, tokens, d], the last one before any final norm.
    """
    layers, streams = decoder_stack(model), []

    def entering(module: nn.Module, args: tuple, kwargs: dict) -> None:
        streams.append(args[0] if args else kwargs["hidden_states"])

    def leaving(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        streams.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layers[0].register_forward_pre_hook(entering, with_kwargs=True)]
    hooks += [layer.register_forward_hook(leaving) for layer in layers]
    try:
        yield streams
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def last_token_activations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    route: Route,
    batch_size: int = 32,
) -> np.ndarray:
    """The residual stream at every prompt's last token, fp64: [layers + 1, prompts, d].

    With the scales of `route`. Prompts start with BOS, if the tokenizer has one, as in sampling.
    """
    device = next(model.parameters()).device
    encoded = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    by_length = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))  # little padding
    found: list[np.ndarray] = [np.empty(0)] * len(prompts)
    for start in range(0, len(by_length), batch_size):
        chunk = by_length[start : start + batch_size]
        # padding stands right of the last token, where a causal model does not look
        batch = collate([Example(encoded[i], len(encoded[i])) for i in chunk], device)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        with routed(model, [route] * len(chunk)), residual_streams(model) as streams:
            model.base_model(**inputs, position_ids=batch.position_ids, use_cache=False)
        rows, ends = torch.arange(len(chunk)), torch.tensor(batch.lengths) - 1
        read = torch.stack([stream[rows, ends].cpu() for stream in streams], dim=1)  # [chunk, layers + 1, d]
        for i, own in zip(chunk, read.double().numpy(), strict=True):
            found[i] = own
    return np.stack(found, axis=1)


@dataclass(frozen=True)
class Reading:
    """How one layer parts the two kinds of prompts."""

    # length of the difference of means, in root mean square distances of a prompt from its kind's mean
    separation: float
    # shares of the variance of all prompts that the first principal components have, descending
    variance: list[float]
    # [prompts, 2]: did the probe tell a prompt that shows the behaviour, and its plain twin?
    # It had seen no prompt of their unit.
    told: list[list[bool]]
    # accuracies of as many probes as were asked for, whose labels were drawn at random
    shuffled: list[float]
    # "means", "pca" and "probe": [d] each, of any length
    directions: dict[str, np.ndarray]


def read_layer(
    shown: np.ndarray,
    plain: np.ndarray,
    units: Sequence[Hashable],
    components: int = 3,
    shuffles: int = 5,
    seed: int = 0,
) -> Reading:
    """What one layer's activations of prompts that show the behaviour and of their plain twins say.

    Both [prompts, d]. `units`: the plot of each pair, which is held out whole. The probe is a logistic
    regression with scikit-learn's default penalty, on standardised activations. Of `shuffles` more, each pair
    got its labels by a coin, so that chance is 0.5 in every fold. Raises BadInput for a single unit.
    """
    if len(set(units)) < 2:
        raise BadInput("a probe is tested on plots that it has not seen: give prompts of two plots or more")
    pairs, pooled = len(shown), np.concatenate([shown, plain])
    labels = np.repeat([True, False], pairs)
    folds = {"cv": GroupKFold(min(FOLDS, len(set(units)))), "groups": _numbers(units) * 2}
    difference = shown.mean(0) - plain.mean(0)
    within = np.concatenate([shown - shown.mean(0), plain - plain.mean(0)])
    pca = PCA(min(components, *pooled.shape), svd_solver="full").fit(pooled)
    whole = _probe().fit(pooled, labels)
    right = cross_val_predict(_probe(), pooled, labels, **folds) == labels
    random, shuffled = np.random.default_rng(seed), []
    for _ in range(shuffles):
        coins = random.random(pairs) < 0.5
        drawn = np.concatenate([coins, ~coins])
        shuffled.append(float((cross_val_predict(_probe(), pooled, drawn, **folds) == drawn).mean()))
    return Reading(
        separation=float(np.linalg.norm(difference) / math.sqrt(np.square(within).sum(1).mean())),
        variance=pca.explained_variance_ratio_.tolist(),
        told=np.stack([right[:pairs], right[pairs:]], axis=1).tolist(),
        shuffled=shuffled,
        directions={
            "means": difference,
            "pca": pca.components_[0],
            # back from standardised activations
            "probe": whole[-1].coef_[0] / whole[0].scale_,
        },
    )


def _probe() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _numbers(units: Sequence[Hashable]) -> list[int]:
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    return [numbers[unit] for unit in units]


def angle(name: str, a: Reading, b: Reading) -> float:
    """The angle between two readings' directions `name`, in degrees.

    0 to 180; of "pca" 0 to 90, since a principal component has no sign. Between random directions it is 90,
    give or take 57 / sqrt(d).
    """
    x, y = a.directions[name], b.directions[name]
    cosine = float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
    cosine = abs(cosine) if name == "pca" else cosine
    # rounding may put it outside
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
