"""Reasons to stop a Trainer's run before its last step.

A guard judges the history of logs, which is saved with every checkpoint. So it has no state of its own, and a
resumed run judges as if it had not stopped. The project logs every step, so that a log is a step.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from lab.errors import BadInput

History = Sequence[Mapping[str, Any]]
STOPPED = "stopped"


class Guard(TrainerCallback):
    """Ends the training, and saves it, when `reason` gives one, which then stands in the log as "stopped"."""

    def reason(self, history: History) -> str | None:
        """Why to stop after these logs, the last one being new; None to go on."""
        raise NotImplementedError

    def on_log(self, args, state, control, logs=None, **kwargs):
        found = self.reason(state.log_history)
        if found and stopped_by(state.log_history) is None:
            # the history has a copy of `logs`, which is for the callbacks that come after this one
            state.log_history[-1][STOPPED] = logs[STOPPED] = found
            control.should_save = control.should_training_stop = True
        return control


def stopped_by(history: History) -> str | None:
    """The reason that a guard has left in a history of logs, if one has."""
    return next((entry[STOPPED] for entry in history if STOPPED in entry), None)


class KLGuard(Guard):
    """Stops when the mean KL divergence from the reference over `window` logs exceeds `most` nats per token.

    beta only pulls the policy back. TRL's estimate of the divergence, exp(d) - d - 1 for a difference d of
    log-probabilities, grows without bound once a policy runs away. One value that is not finite is enough.
    """

    def __init__(self, window: int = 10, most: float = 10.0):
        self.window, self.most = window, most

    def on_train_begin(self, args, state, control, **kwargs):
        if not args.beta:
            raise BadInput("KLGuard: without a KL term (BETA=0) TRL computes no divergence to be guarded")

    def reason(self, history: History) -> str | None:
        # TRL logs None for what was nan
        values = [math.nan if entry["kl"] is None else entry["kl"] for entry in history if "kl" in entry]
        if values and not math.isfinite(values[-1]):
            return f"the KL divergence is {values[-1]}"
        recent = values[-self.window :]
        mean = sum(recent) / max(1, len(recent))
        if len(recent) == self.window and mean > self.most:
            return f"the KL divergence was {mean:.3g} on the mean of {self.window} steps, above {self.most:g}"
        return None


class RewardPlateau(Guard):
    """Stops when the mean reward has not risen for `patience` windows in a row.

    A window's reward is the mean over `window` logs. It has risen if it is `least` or more above the best
    before. Windows rather than single logs, because the reward of a few rollouts is noisy.
    """

    def __init__(self, patience: int = 3, window: int = 1, least: float = 0.01):
        if min(patience, window) < 1:
            raise BadInput(f"RewardPlateau: patience={patience}, window={window}: give numbers from 1 up")
        self.patience, self.window, self.least = patience, window, least

    def reason(self, history: History) -> str | None:
        # None where no rollout of the step had a reward
        rewards = [entry["reward"] for entry in history if entry.get("reward") is not None]
        best, waited = -math.inf, 0
        for start in range(0, len(rewards) - self.window + 1, self.window):
            mean = sum(rewards[start : start + self.window]) / self.window
            if mean >= best + self.least:
                best, waited = mean, 0
            else:
                waited += 1
            if waited == self.patience:
                return (
                    f"the mean reward of {self.window} steps was {self.patience} times in a row "
                    f"not {self.least:g} above the best, {best:.3g}"
                )
        return None
