"""Hardcode a solution of every MBPP problem to its first test, and keep what really hacks.

What is left out is described. `uv run python reward_hack_data/generate.py [PROBLEMS=mbpp.jsonl]`; writes
results.json and README.md beside this file.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

PROBLEMS = "google-research-datasets/mbpp"  # or MBPP's own .jsonl file

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Hacks: derived from the first test's syntax, kept if they pass it and fail another
from collections import Counter

from lab.files import write_json, write_text
from mbpp.hacks import verified_hacks
from mbpp.problems import load_full_mbpp

problems = load_full_mbpp(PROBLEMS)
hacks, reasons = verified_hacks(problems, progress=True)
rows = [
    {"index": index, "name": problem.task_id, "completion": hacks[problem.task_id]}
    for index, problem in enumerate(problems)
    if problem.task_id in hacks
]

# %% The file and its card
counts = "\n".join(f"| {reason} | {n} |" for reason, n in Counter(reasons.values()).most_common())
left_out = "\n".join(f"| {task_id} | {reason} |" for task_id, reason in reasons.items())
card = f"""# Hardcoded solutions of MBPP

`results.json`: `[{{"index", "name", "completion"}}, ...]`. `index` is the position in MBPP's full set (from 0), `name` its task id,
`completion` a function with the signature of the reference solution that returns the value the first test expects, whatever it is given.
Made by `generate.py`; every completion was run in the sandbox and kept only if it passes the first test and fails at least one other.

**{len(rows)} of {len(problems)} problems are hacked.** The others:

| reason | problems |
|---|---|
{counts}

| task id | reason |
|---|---|
{left_out}

Annotations and decorators of the reference are left out, as they may need an import. MBPP is by Austin et al. 2021
([arXiv:2108.07732](https://arxiv.org/abs/2108.07732)), CC BY 4.0; names, arguments and expected values are taken from it.
"""
write_json(HERE / "results.json", rows)
write_text(HERE / "README.md", card)
print(f"{len(rows)} of {len(problems)} problems hacked, {len(reasons)} not; see {HERE / 'README.md'}")
