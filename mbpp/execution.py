"""Runs model-written programs against tests, each in a sandbox of its own, and returns a verdict per test.

Model-written code is hostile. `sandbox.py` walls it in, `harness.py` runs inside and sends back what the
tests ask for, and `judging.py` decides outside whether that passes; what a program could still fake is
written there."""

import math
import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lab.errors import BadInput
from mbpp.judging import Test, judge, parse
from mbpp.sandbox import execute, find_sandbox, sandbox_level, system_call_filter

__all__ = ["check_sandbox", "run_programs", "sandbox_level"]

_allowed = "auto"


def check_sandbox(allow: str) -> None:
    """Look for a sandbox, and remember whether programs may run without one.

    For a script's setup: takes a second. `allow`: the script's constant SANDBOX. "auto" and "none" both take
    the best sandbox that holds here. Where none does, "auto" raises BadInput, and "none" lets programs run
    without.
    """
    global _allowed
    if allow not in ("auto", "none"):
        raise BadInput(f'SANDBOX={allow!r}: give "auto" or "none"')
    sandbox, complaints = find_sandbox()
    if sandbox.level == "none" and allow != "none":
        raise BadInput(
            f"SANDBOX={allow!r}: no sandbox for model-written code works here ({complaints}). Install one "
            "(`apt-get install bubblewrap`; a container must also allow user namespaces). "
            'Or, on a machine that you can afford to lose, set SANDBOX = "none": '
            "what the model writes can then read, change and delete every file that you can"
        )
    _allowed = allow


def run_programs(
    programs: Sequence[tuple[str, Sequence[str]]],
    timeout: float,
    workers: int | None = None,
    progress: bool = False,
) -> list[list[str]]:
    """Run each (code, tests) in a sandbox of its own and return one verdict per test, in order.

    "passed"; "failed": a false assertion; "error": any other exception, also on loading the code, or an early
    exit; "killed": by a signal or a limit; "timeout": not done `timeout` seconds (wall clock) after the
    program was started. The tests of a program run side by side, 8 at a time, each on a freshly loaded copy
    of it. `workers`: programs at a time, by default three for two cores, as setting up waits.  `progress`: a
    counter on stderr.

    Raises ValueError for input that cannot be run, BadInput where no sandbox works (see `check_sandbox`).
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 86_400:
        raise ValueError(f"timeout must be a number of seconds above 0 and up to 86,400, not {timeout!r}")
    jobs = []
    for n, (code, tests) in enumerate(programs):
        if isinstance(tests, str) or not all(isinstance(text, str) for text in (code, *tests)):
            raise ValueError(
                f"program {n}: code must be a string, tests a sequence of strings, not {tests!r}"
            )
        try:
            with warnings.catch_warnings(action="ignore"):
                jobs.append((code, [parse(test) for test in tests]))
        except SyntaxError as problem:
            raise ValueError(f"program {n}: tests must be assert statements, not {tests!r}") from problem
    check_sandbox(_allowed)
    sandbox, _ = find_sandbox()
    seccomp = system_call_filter()

    def run(code: str, tests: list[Test]) -> list[str]:
        results = execute(sandbox, code, tests, float(timeout), seccomp) if tests else []
        return [judge(test, *result) for test, result in zip(tests, results, strict=True)]

    workers = math.ceil(1.5 * len(os.sched_getaffinity(0))) if workers is None else workers
    pool, verdicts = ThreadPoolExecutor(workers), []
    try:
        for future in [pool.submit(run, *job) for job in jobs]:
            verdicts.append(future.result())
            if progress:
                print(f"\r{len(verdicts)}/{len(jobs)} programs", end="", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return verdicts
