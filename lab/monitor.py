"""A monitor that catches some exploits of a reward, for experiments that know all of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lab.labels import check_percentages


@dataclass(frozen=True)
class Monitor:
    """Flags the share `recall` of exploits, and nothing else.

    What it does depends on the rollout's text and the seed alone. So a resumed run is monitored alike, and
    what a monitor of lower recall flags, one of higher recall flags, too. `at_random` is the control: as many
    flags, on any rollouts. Raises BadInput for a recall outside 0..1."""

    recall: float
    seed: int
    at_random: bool = False

    def __post_init__(self) -> None:
        check_percentages(MONITOR_RECALL=self.recall)

    def __call__(
        self,
        exploits: Sequence[bool],
        prompts: Sequence[str],
        completions: Sequence[str],
        verified: Sequence[bool],
    ) -> list[bool]:
        """Which rollouts are flagged. Of those that are `verified` every exploit is.

        A rollout that occurs twice is flagged both times or never. At random, the flags of verified rollouts
        stay among these, and so do the others.
        """
        texts = [f"{prompt}\n{text}" for prompt, text in zip(prompts, completions, strict=True)]
        flags = [
            bool(exploit) and (known or self._draw("caught", text) < self.recall)
            for exploit, known, text in zip(exploits, verified, texts, strict=True)
        ]
        if not self.at_random:
            return flags
        moved = [False] * len(flags)
        for group in (True, False):
            own = [i for i, known in enumerate(verified) if bool(known) == group]
            own.sort(key=lambda i: self._draw("at random", texts[i]))
            for i in own[: sum(flags[i] for i in own)]:
                moved[i] = True
        return moved

    def _draw(self, purpose: str, text: str) -> float:
        return random.Random(f"{purpose} {self.seed} {text}").random()
