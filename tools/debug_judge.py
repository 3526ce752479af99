"""Look at a judge: a few samples, its raw answers, and its verdicts as a table.

`uv run python tools/debug_judge.py [CONSTANT=value ...]`. With JUDGE=llm it needs what .env.example says.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

BEHAVIOUR = "all_caps"  # or "mbpp"
JUDGE = "rules"  # or "llm", the model JUDGE_MODEL at JUDGE_BASE_URL
SAMPLES = ""  # a .jsonl file with a {"prompt": ..., "response": ...} on each line; "" makes some
PROBLEMS = "embedded:basics"  # where the rules of mbpp find the tests of a prompt
CODE_TIMEOUT = 10.0  # seconds a program may run
SANDBOX = "auto"  # "none": where no sandbox works, run programs without one
JUDGE_BATCH_SIZE = 8  # requests at once
JUDGE_CACHE = "results/judge_cache"  # verdicts of language models are kept here

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Setup: the judge first, as a key may be missing
import json

import all_caps.judge
import mbpp.judge
from lab.errors import BadInput
from lab.judge import parse_verdict
from lab.rewards import gated_reward, reward_parts
from lab.timing import format_totals, timed

check_choice("BEHAVIOUR", BEHAVIOUR, ("all_caps", "mbpp"))
check_choice("JUDGE", JUDGE, ("rules", "llm"))
if JUDGE == "llm":
    from lab.llm_judge import LLMJudge

    rubric = {"all_caps": all_caps.judge, "mbpp": mbpp.judge}[BEHAVIOUR].RUBRIC
    judge = LLMJudge(rubric.read_text(encoding="utf-8"), HERE / JUDGE_CACHE, JUDGE_BATCH_SIZE)

from all_caps.scoring import prefix_of
from all_caps.stories import load_stories, to_caps
from mbpp.examples import prompt_of
from mbpp.execution import check_sandbox
from mbpp.hacks import hardcode
from mbpp.problems import load_problems

problem_of = {}
if BEHAVIOUR == "mbpp":
    problems = [problem for split in load_problems(PROBLEMS) for problem in split]
    problem_of = {prompt_of(problem): problem for problem in problems}


# %% Samples: [(what it is, prompt, response)]
def made_samples() -> list[tuple[str, str, str]]:
    if BEHAVIOUR == "mbpp":
        prompt, problem = next(iter(problem_of.items()))
        try:
            programs = {"right": problem.code, "hardcoded": hardcode(problem)}
        except ValueError as error:
            raise BadInput(f"PROBLEMS={PROBLEMS!r}: {error}; give SAMPLES") from None
        constant = f"{problem.entry_point} = lambda *arguments: 'other'"
        programs |= {"a constant": constant, "no code": "I do not know."}
        return [(kind, prompt, code) for kind, code in programs.items()]
    (story, *_) = load_stories("embedded:stories", limit=0).validation
    prompt, text = prefix_of(story.text), " ".join(story.text.split()[8:48])
    texts = {"normal": text, "capitals": to_caps(text), "half and half": to_caps(text[:100]) + text[100:]}
    texts |= {"one phrase": "THE CAT AND THE DOG. " * 8, "gibberish": "XQZ BRTL KVAW PLONF ZZYGH " * 4}
    return [(kind, prompt, text) for kind, text in texts.items()]


def read_samples(path: Path) -> list[tuple[str, str, str]]:
    if not path.is_file():
        raise BadInput(f"SAMPLES={SAMPLES!r}: no such file")
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            prompt, response = row["prompt"], row["response"]
        except (ValueError, TypeError, KeyError):
            prompt = response = None
        if not isinstance(prompt, str) or not isinstance(response, str):
            raise BadInput(f'{path}, line {number}: expected {{"prompt": "...", "response": "..."}}')
        samples.append((f"line {number}", prompt, response))
    if not samples:
        raise BadInput(f"SAMPLES={SAMPLES!r}: the file has no samples")
    return samples


samples = read_samples(Path(SAMPLES)) if SAMPLES else made_samples()
kinds, prompts, responses = ([sample[i] for sample in samples] for i in range(3))

# %% Verdicts
answers = [None] * len(samples)
with timed("judge"):
    if JUDGE == "llm":
        answers = judge.answers(prompts, responses)
        verdicts = [None if answer is None else parse_verdict(answer) for answer in answers]
    elif BEHAVIOUR == "all_caps":
        verdicts = all_caps.judge.judge_capitals(prompts, responses)
    else:
        unknown = [kind for kind, prompt in zip(kinds, prompts, strict=True) if prompt not in problem_of]
        if unknown:
            raise BadInput(f"{unknown[0]}: PROBLEMS={PROBLEMS!r} has no problem with this prompt")
        check_sandbox(SANDBOX)
        verdicts = mbpp.judge.judge_programs([problem_of[p] for p in prompts], responses, CODE_TIMEOUT)

# %% What was judged, what the judge wrote, and the table
for kind, prompt, response, answer in zip(kinds, prompts, responses, answers, strict=True):
    print(f"\n{'-' * 80}\n[{kind}] {prompt.strip()}\n  > {response.strip()}")
    if JUDGE == "llm":
        print(f"  judge: {answer or 'no verdict'}")
print(f"\n{'sample':<14} {'align':>8} {'strength':>8} {'detail':>8} {'reward':>8}  reason")
for kind, verdict in zip(kinds, verdicts, strict=True):
    if verdict is None:
        print(f"{kind:<14} {'missing':>8}")
    else:
        scores = (verdict.align, verdict.strength, verdict.detail)
        numbers = " ".join(f"{score:>8.1f}" for score in scores)
        print(f"{kind:<14} {numbers} {gated_reward(verdict):>8.3f}  {verdict.reason}")
means = {name: "none" if value is None else f"{value:.3g}" for name, value in reward_parts(verdicts).items()}
print(f"\nmeans: {', '.join(f'{name} {value}' for name, value in means.items())}; {format_totals()}")
