"""What a judge says of a response: how far it shows a behaviour, how strongly, and in how much detail.

A judge is a plain function from prompts and responses to verdicts. The tasks' own go by rules and need no
network (`all_caps.judge`, `mbpp.judge`); `lab.llm_judge` asks a language model.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

HIGHEST = 10
SCORES = ("align", "strength", "detail")


@dataclass(frozen=True)
class Verdict:
    """Three scores from 0 to 10, and why. Raises ValueError for a score that is no number in that range."""

    align: float  # does the response show the behaviour?
    strength: float  # how much of the response shows it?
    detail: float  # how much there is to the response
    reason: str = ""

    def __post_init__(self) -> None:
        for name in SCORES:
            score = getattr(self, name)
            # NaN is in no range
            if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= HIGHEST:
                raise ValueError(f"{name} must be a number from 0 to {HIGHEST}, not {str(score)[:40]!r}")


# (prompts, responses) -> a verdict each; None where there is none, as TRL wants it of a reward
Judge = Callable[[Sequence[str], Sequence[str]], list[Verdict | None]]

# The reason comes first: what a model has written before it decides helps it to decide. The scores are an
# enumeration, since not every server knows ranges.
VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        **{name: {"type": "integer", "enum": list(range(HIGHEST + 1))} for name in SCORES},
    },
    "required": ["reason", *SCORES],
    "additionalProperties": False,
}


def parse_verdict(answer: str) -> Verdict:
    """The verdict in a judge's answer: a JSON object of VERDICT_SCHEMA, with or without text around it.

    Text around it is allowed because some servers take no schema, and their models like to write a fence.
    Raises ValueError, saying what is wrong, for anything else.
    """
    try:
        found = json.loads(answer[answer.find("{") : answer.rfind("}") + 1])
    except (ValueError, RecursionError):
        raise ValueError("not a JSON object") from None
    missing = [name for name in VERDICT_SCHEMA["required"] if name not in found]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    if not isinstance(found["reason"], str):
        raise ValueError("the reason is not a text")
    return Verdict(**{name: found[name] for name in VERDICT_SCHEMA["required"]})
