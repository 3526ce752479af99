"""What else a model can do: tasks of lm-eval, the Language Model Evaluation Harness, in every ablation mode.

lm-eval is the dependency group `eval`, imported only where it is used. It gets the adapted model as it is,
with its scales set: nothing is merged or exported.
"""

import difflib
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import datasets
from torch import nn
from transformers import PreTrainedTokenizerBase

from adapters import Route, routed_modules
from lab.errors import BadInput

BOOTSTRAP = 1000  # resamples for lm-eval's own standard errors, of metrics that are no means
# It warns of what is meant here: a model that is loaded already, data of one's own.
logging.getLogger("lm_eval").setLevel(logging.ERROR)
# mode -> task -> metric -> what was found
Found = dict[str, dict[str, dict[str, Any]]]


def check_lm_eval() -> None:
    """Raise BadInput if lm-eval is not installed. For a script's setup: imports nothing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise BadInput(
            "utility is measured with lm-eval, which is not installed: `uv sync --group eval`, or give "
            "MODE=behaviour"
        )


def load_tasks(names: Sequence[str]) -> dict[str, Any]:
    """lm-eval's tasks, groups and tags of these names, with their data: {"tasks", "groups", "group_map"}.

    Raises BadInput for a name that lm-eval does not know, and if data cannot be read.
    """
    from lm_eval.tasks import TaskManager

    if not names:
        return {"tasks": {}, "groups": {}, "group_map": {}}
    manager = TaskManager()
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "`lm-eval ls tasks` lists them"
            raise BadInput(f"TASKS: lm-eval has no task {name!r}; {hint}")
    try:
        return manager.load(list(names))
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        raise BadInput(
            f"TASKS={list(names)}: the data could not be read from the Hub ({type(error).__name__}: "
            f"{' '.join(first)}); without it only this project's own task can be run"
        ) from error


def choice_task(name: str, documents: Sequence[Mapping[str, Any]], bos: str | None) -> Any:
    """A multiple-choice task of lm-eval, made of {"query", "choices", "gold": the right one's index}.

    Nothing is downloaded or written. `bos` (the tokenizer's, or None) stands before every query, as before
    every text in training; lm-eval leaves that to the tokenizer, and many do not.
    """
    from lm_eval.api.task import ConfigurableTask

    rows = datasets.Dataset.from_list([dict(document) for document in documents])
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": rows},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": lambda document: (bos or "") + document["query"],
            "doc_to_choice": lambda document: document["choices"],
            "doc_to_target": lambda document: document["gold"],
            "target_delimiter": "",
            "metric_list": metrics,
        }
    )


def run_tasks(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, Any],
    modes: Mapping[str, Route],
    documents: int = 0,
    batch_size: int = 16,
    seed: int = 0,
) -> tuple[Found, Found]:
    """(values, reported) of every mode: mode -> task -> metric -> what was found.

    `values` are [documents]: of a metric that is 0 or 1 of each document of every mode, rows of one bool, as
    `lab.modes` takes rates; otherwise numbers. What has no number of each document (perplexity, means over a
    group of tasks) is in `reported` as {"mean", "low", "high"}, of lm-eval's own standard error, where it has
    one. `tasks`: as of `load_tasks`. `documents`: at most so many of each task, 0 for all. Modes share
    documents and examples shown (few-shot). In one process; under torchrun each would do all of it.
    """
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM

    values: Found = {}
    reported: Found = {}
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    for mode, route in modes.items():
        for task in tasks["tasks"].values():
            task.set_fewshot_seed(seed=seed)
        with _scales_of(model, route):
            result = evaluate(
                lm=lm, task_dict=dict(tasks), limit=documents or None, bootstrap_iters=BOOTSTRAP
            )
        values[mode], reported[mode] = {}, {}
        for task, summary in result["results"].items():
            samples = sorted(result["samples"].get(task, []), key=lambda sample: sample["doc_id"])
            values[mode][task], reported[mode][task] = _metrics(summary, samples)
    _as_rates(values)
    return values, reported


@contextmanager
def _scales_of(model: nn.Module, route: Route) -> Iterator[None]:
    """The route's scales for every forward pass inside the block, whatever the size of its batch."""
    modules = routed_modules(model)
    before = [(module.good_scale, module.bad_scale) for module in modules]
    try:
        for module, (good, bad) in zip(modules, before, strict=True):
            module.good_scale, module.bad_scale = route.good_scale * good, route.bad_scale * bad
        yield
    finally:
        for module, (good, bad) in zip(modules, before, strict=True):
            module.good_scale, module.bad_scale = good, bad


def _metrics(summary: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> tuple[dict, dict]:
    """(metric -> its number of each document, metric -> lm-eval's summary) of a task's results.

    lm-eval calls a metric "acc,none" after the filter that answers went through, its error "acc_stderr,none".
    """
    values, reported = {}, {}
    for key, mean in summary.items():
        metric, _, used = key.partition(",")
        if not used or metric.endswith("_stderr") or not isinstance(mean, Real):
            continue
        name = metric if used == "none" else f"{metric} {used}"
        found = [sample.get(metric) for sample in samples if sample["filter"] == used]
        if found and all(isinstance(value, Real) for value in found):
            values[name] = [float(value) for value in found]
        else:
            error = summary.get(f"{metric}_stderr,{used}")
            half = 1.96 * error if isinstance(error, Real) else 0.0
            reported[name] = {"mean": float(mean), "low": float(mean - half), "high": float(mean + half)}
    return values, reported


def _as_rates(values: Found) -> None:
    """In place: rows of one bool where every mode's numbers of a metric are 0 or 1."""
    first = next(iter(values.values()))
    for task, metric in [(task, metric) for task, metrics in first.items() for metric in metrics]:
        if all(set(found[task][metric]) <= {0.0, 1.0} for found in values.values()):
            for found in values.values():
                found[task][metric] = [[bool(value)] for value in found[task][metric]]
