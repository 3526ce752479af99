"""Cells of a notebook that are run again: a training begins again, and does not go on with its result."""

import torch
from torch import nn

from lab.live import in_notebook
from routing.checkpoints import copy_strictly


def begin_again(model: nn.Module, training: str) -> None:
    """In a notebook, put what `model` trains back to what it was when this `training` first began on it.

    The CPU's random state, too: there the second time ends as the first. A training that began on the model
    after this one went on from its result, and is forgotten. Elsewhere a script runs once, and nothing is
    kept.
    """
    if not in_notebook():
        return
    begun = vars(model).setdefault("trainings_begun", {})
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if training not in begun:
        copies = {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}
        begun[training] = torch.get_rng_state(), copies
        return
    names = list(begun)
    for later in names[names.index(training) + 1 :]:
        del begun[later]
    rng_state, copies = begun[training]
    copy_strictly(copies, trained, f"the start of {training}")
    torch.set_rng_state(rng_state)
