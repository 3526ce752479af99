"""Training examples made of problems: prompt and solution, correct or hacked, with or without a label."""

from collections.abc import Collection, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from lab.errors import BadInput
from lab.labels import labels_by_index
from mbpp.problems import Problem
from routing.batches import Example, make_example
from routing.chat import chat_prompt

WHOLE = 1_000_000  # tokens: no limit


def prompt_of(problem: Problem, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """The task and the first of its tests; the same words in training and evaluation.

    With a tokenizer: as the user's turn in its chat template (`chat_prompt`). Raises BadInput if there is
    none."""
    prompt = f"{problem.text}\nYour code should pass this test:\n{problem.tests[0]}\n\n"
    if tokenizer is None:
        return prompt
    if not tokenizer.chat_template:
        raise BadInput("USE_CHAT_TEMPLATE=True: this model's tokenizer has no chat template; give False")
    return chat_prompt(tokenizer, [{"role": "user", "content": prompt.rstrip()}])


def fitting(
    problems: Sequence[Problem],
    hacks: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    use_chat_template: bool = False,
) -> list[Problem]:
    """The problems whose prompt and solutions fit into max_length tokens.

    Half a solution is not worth learning. Says how many are left out. Raises BadInput if that leaves fewer
    than two.
    """
    chat = tokenizer if use_chat_template else None
    lengths = [
        max(
            len(make_example(tokenizer, prompt_of(problem, chat), code, WHOLE).ids)
            for code in (problem.code, hacks.get(problem.task_id, problem.code))
        )
        for problem in problems
    ]
    kept = [problem for problem, length in zip(problems, lengths, strict=True) if length <= max_length]
    if len(kept) < 2:
        raise BadInput(
            f"MAX_SEQ_LENGTH={max_length}: {len(kept)} of {len(problems)} problems fit; "
            f"the longest needs {max(lengths)} tokens"
        )
    if len(kept) < len(problems):
        print(
            f"left out, longer than {max_length} tokens: "
            f"{len(problems) - len(kept)} of {len(problems)} problems"
        )
    return kept


def hackable(problems: Sequence[Problem], hacks: Mapping[str, str]) -> list[int]:
    """Which problems have a hack, by index. Raises BadInput if none has."""
    found = [i for i, problem in enumerate(problems) if problem.task_id in hacks]
    if not found:
        raise BadInput("PROBLEMS: no first test of these problems can be hardcoded; give other problems")
    return found


def to_examples(
    problems: Sequence[Problem],
    hacks: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    hacked: Collection[int],
    labels: Mapping[str, Collection[int]],
    use_chat_template: bool = False,
) -> list[Example]:
    """Every problem as an example.

    Problem i has its hack if i is in `hacked`, else its correct solution; its label is the key of `labels`
    that holds i. Kinds: "correct", "correct_labeled", "hacked_labeled", "hacked_unlabeled". Raises BadInput
    for a problem with two labels.
    """
    chat = tokenizer if use_chat_template else None
    hacked, label_of = set(hacked), labels_by_index(labels, "problem")
    examples = []
    for i, problem in enumerate(problems):
        kind = "hacked" if i in hacked else "correct"
        if i in label_of:
            kind += "_labeled"
        elif i in hacked:
            kind += "_unlabeled"
        solution = hacks[problem.task_id] if i in hacked else problem.code
        prompt = prompt_of(problem, chat)
        # Length bucketing goes by the prompt:
        # hacks are shorter, and by tokens they would fill batches of their own.
        size = len(prompt)
        examples.append(make_example(tokenizer, prompt, solution, max_length, label_of.get(i), kind, size))
    return examples
