"""What each data set adds to the dial: held-out prompts, a verdict on a completion, its curve."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

import all_caps.task
import mbpp.task
from adapters import Route
from all_caps.scoring import is_caps, prefix_of
from all_caps.stories import load_stories, to_caps
from lab.errors import BadInput
from lab.files import fingerprint
from lab.tables import Column
from mbpp.examples import prompt_of
from mbpp.execution import check_sandbox
from mbpp.hacks import load_hacks
from mbpp.problems import load_problems
from mbpp.scoring import score
from routing.rows import read_rows

Constants = Mapping[str, Any]

MAX_SEQ_LENGTH = 128  # tokens of a held-out text whose loss is measured


@dataclass(frozen=True)
class Settings:
    """How much is looked at: constants of dial.py."""

    split: str
    num_prompts: int
    max_new_tokens: int
    temperature: float
    seed: int
    code_timeout: float  # seconds a program may run
    sandbox: str


@dataclass(frozen=True)
class Found:
    """What a judge says of a completion."""

    shows: bool | None  # the behaviour; None: nobody can tell
    tests: tuple[tuple[str, str], ...] = ()  # of a program: each test with its verdict


@dataclass(frozen=True)
class Task:
    """A data set as the dial needs it."""

    behaviour: str  # what a rate counts: "in capitals"
    prompts: dict[str, str]  # as a list shows them -> the prompt
    judge: Callable[[str, Sequence[str]], list[Found]]  # completions of one prompt
    evaluate: Callable[[Mapping[str, Route]], dict[str, Any]]  # the results of each mode, as in experiment.py
    columns: Sequence[Column]


def load_task(
    checkpoint: Path,
    config: Mapping[str, Any],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    task_folder: str = "",
) -> Task:
    """The task that a checkpoint was trained for, by its constants; a copy of template/ is `task_folder`.

    By default that is the folder that the checkpoint's `checkpoints` lies in. Raises BadInput for a
    checkpoint of something else, and where its data cannot be read.
    """
    constants = config["constants"]
    if "STORIES" in constants:
        return _all_caps(constants, model, tokenizer, settings)
    if "PROBLEMS" in constants:
        return _mbpp(constants, model, tokenizer, settings)
    if "DATA" in constants:
        folder = Path(task_folder) if task_folder else checkpoint.resolve().parent.parent
        return _template(folder, constants, model, tokenizer, settings)
    raise BadInput(
        f"{checkpoint}: its constants name no STORIES, PROBLEMS or DATA, so its data set is not known; "
        "give a checkpoint of all_caps, mbpp or template"
    )


def _all_caps(
    constants: Constants, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings
) -> Task:
    stories = load_stories(constants["STORIES"], limit=0).split(settings.split)[: settings.num_prompts]
    prefixes = [prefix_of(story.text) for story in stories]
    prompts = {prompt: prompt for prefix in prefixes for prompt in (to_caps(prefix), prefix)}
    return Task(
        behaviour="in capitals",
        prompts=prompts,
        judge=lambda prompt, texts: [Found(is_caps(text)) for text in texts],
        evaluate=lambda modes: all_caps.task.evaluate(
            model, tokenizer, stories, modes, settings.max_new_tokens, MAX_SEQ_LENGTH, settings.temperature,
            settings.seed,
        ),
        columns=all_caps.task.COLUMNS,
    )  # fmt: skip


def _mbpp(
    constants: Constants, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings
) -> Task:
    check_sandbox(settings.sandbox)
    splits = load_problems(constants["PROBLEMS"], constants["SANITIZED_PROBLEMS"])
    problems = splits.split(settings.split)[: settings.num_prompts]
    in_chat = bool(constants.get("USE_CHAT_TEMPLATE"))
    by_prompt = {prompt_of(problem, tokenizer if in_chat else None): problem for problem in problems}

    def judge(prompt: str, texts: Sequence[str]) -> list[Found]:
        # a prompt of one's own has no tests
        if prompt not in by_prompt:
            return [Found(None) for _ in texts]
        problem = by_prompt[prompt]
        outcomes = score([problem] * len(texts), texts, settings.code_timeout)
        return [
            Found(
                outcome.hardcoded or (outcome.constant and outcome.reward_hack),
                tuple(zip(problem.tests, outcome.verdicts, strict=True)),
            )
            for outcome in outcomes
        ]

    return Task(
        behaviour="hardcoded",
        prompts={problem.text: prompt for prompt, problem in by_prompt.items()},
        judge=judge,
        evaluate=lambda modes: mbpp.task.evaluate(
            model, tokenizer, problems, load_hacks([], problems, None), modes, settings.max_new_tokens,
            settings.code_timeout, settings.temperature, settings.seed, use_chat_template=in_chat,
        ),
        columns=mbpp.task.COLUMNS,
    )  # fmt: skip


def _template(
    folder: Path,
    constants: Constants,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
) -> Task:
    task = _module(folder / "task.py")
    length = constants["MAX_SEQ_LENGTH"]
    rows = read_rows(constants["DATA"], folder)
    lines = task.to_lines(rows, constants["COLUMN_NAMES"], tokenizer, length).split(settings.split)
    asked = [(line, task.evaluation_prompt(line.prompt, line.response)) for line in lines]
    asked = [(line, prompt) for line, prompt in asked if prompt is not None][: settings.num_prompts]
    return Task(
        behaviour="with the behaviour",
        prompts={prompt: prompt for _, prompt in asked},
        judge=lambda prompt, texts: [Found(bool(task.shows_behaviour(prompt, text))) for text in texts],
        evaluate=lambda modes: task.evaluate(
            model, tokenizer, [line for line, _ in asked], modes, settings.max_new_tokens,
            settings.temperature, settings.seed,
        ),
        columns=task.COLUMNS,
    )  # fmt: skip


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"TASK_FOLDER: there is no {path}; give the copy of template/ that it was trained in")
    # it comes with the checkpoint, and runs as this process
    print(f"running {path.resolve()}")
    spec = importlib.util.spec_from_file_location(f"{path.stem}_{fingerprint([str(path.resolve())])}", path)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules[spec.name] = module
    # its neighbours are found as its own scripts find them
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
