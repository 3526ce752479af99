"""GRPO as the scripts run it: advantages, records, guards, resuming, merging, and the flawed reward."""

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import randomize, tiny_model
from reference import attach

from adapters import (
    Route,
    apply_dual_lora,
    apply_mlp_adapter,
    bad_params,
    good_params,
    routed_modules,
    set_scales,
)
from all_caps.judge import judge_capitals
from all_caps.rewards import measure_rollouts, story_reward, true_quality
from all_caps.scoring import prefix_of
from all_caps.stories import Story, load_stories, to_caps, to_continuations
from lab.constants import override_constants, use_preset
from lab.errors import BadInput
from lab.files import fingerprint
from lab.logs import read_log
from lab.monitor import Monitor
from lab.rewards import judged_reward, reward_parts
from lab.runs import Run, read_config
from lab.timing import reset_totals, totals
from routing.checkpoints import load_adapters
from routing.generation import MODES
from routing.grpo import RecordedGRPOTrainer, positive_only, rollout_means
from routing.grpo_config import grpo_config, in_steps
from routing.merging import load_on_start, merge_adapters
from routing.resuming import checkpoints_in, is_complete, latest_checkpoint, train_to_end
from routing.stopping import KLGuard, RewardPlateau

pytest.importorskip("trl")
NAN = math.nan
ROUTES = {
    None: Route(update_bad=False),
    "bad": Route(update_good=False),
    "good": Route(update_bad=False, bad_scale=0.0),
}
PROMPTS = ["Tom ran to the", "Once upon a time", "The cat", "A bird sang in the"]

pytestmark = pytest.mark.usefixtures("unreported", "little_garbage")


def a_run(folder, **constants):
    given = {"MODEL_NAME": "tiny", "SEED": 0, "SAVE_EVERY": 2, "RESUME": False}
    return Run("mine", folder, {**given, **constants})


def uneven(completions, log_extra, **columns):
    log_extra("letters", [len(text) for text in completions])
    return [float(sum(map(ord, text)) % 7) for text in completions]


def make_trainer(run, tokenizer, reward=uneven, steps=2, prompts=PROMPTS, ours=None, **more):
    """Steps of 2 prompts with 3 rollouts each; of the prompts every other one is labelled good."""
    model = tiny_model()
    attach(model, "lora")
    randomize(model)
    rows = [{"prompt": text, "label": "good" if i % 2 else None} for i, text in enumerate(prompts)]
    given = {"max_steps": steps, "max_completion_length": 5, "learning_rate": 0.01, "beta": 0.1}
    return RecordedGRPOTrainer(
        model,
        reward,
        grpo_config(run, 2, 3, gradient_checkpointing=False, **(given | more)),
        in_steps(rows, 2, steps, seed=0),
        processing_class=tokenizer,
        routes=ROUTES,
        results=run.results,
        **(ours or {}),
    )


def adapters_of(trainer):
    return [p.detach().clone() for p in good_params(trainer.model) + bad_params(trainer.model)]


def groups_of(rollouts):
    return [rollouts[i : i + 3] for i in range(0, len(rollouts), 3)]


# --- advantages


def test_only_rollouts_above_the_mean_of_their_group_keep_an_advantage():
    rewards = [[0, 1, 0.5], [0.7, 0.7, 0.7], [NAN, 2, 1], [NAN, NAN, NAN], [NAN, 3, NAN]]
    advantages = [[-1, 1, 0.1], [1e-3, 1e-3, -1e-3], [0, 0.7, -0.7], [0, 0, 0], [0, 1e-3, 0]]
    kept = positive_only(torch.tensor(advantages).flatten(), torch.tensor(rewards).flatten(), 3)
    assert torch.equal(kept, torch.tensor([0, 1, 0, 0, 0, 0, 0, 0.7, 0] + [0] * 6))


def test_equal_rewards_have_no_advantage_whatever_the_rounding():
    generator = torch.Generator().manual_seed(0)
    rounded = 0
    for size in (2, 3, 6, 7, 8):
        rewards = torch.rand(500, generator=generator).repeat_interleave(size)
        groups = rewards.view(-1, size)
        rounded += int((groups > groups.mean(1, keepdim=True)).sum())
        assert not positive_only(torch.ones_like(rewards), rewards, size).any()
    # in fp32 some would
    assert rounded > 0


def test_positive_only_in_training(tmp_path, tokenizer):
    """Of one group all rewards are equal, of the other one stands out."""

    def reward(completions, **columns):
        return [0.7, 0.7, 0.7, 0.0, 1.0, 0.4]

    trainer = make_trainer(a_run(tmp_path), tokenizer, reward, ours={"positive_only": True})
    before = adapters_of(trainer)
    trainer.train()
    groups = groups_of(read_log(tmp_path / "results/mine/rollouts.jsonl"))
    for equal, other in zip(groups[::2], groups[1::2], strict=True):
        assert [rollout["advantage"] for rollout in equal] == [0, 0, 0]
        assert [rollout["advantage"] > 0 for rollout in other] == [False, True, False]
        assert min(rollout["advantage"] for rollout in other) == 0
    assert not all(map(torch.equal, before, adapters_of(trainer)))


def test_a_step_of_equal_rewards_updates_nothing(tmp_path, tokenizer):
    trainer = make_trainer(
        a_run(tmp_path), tokenizer, lambda completions, **_: [0.7] * 6, beta=0.0, ours={"positive_only": True}
    )
    before = adapters_of(trainer)
    trainer.train()
    assert trainer.state.global_step == 2 and all(map(torch.equal, before, adapters_of(trainer)))
    log = read_log(tmp_path / "results/mine/train.jsonl")
    assert [line["loss"] for line in log] == [0, 0]


def test_positive_only_needs_advantages_of_groups(tmp_path, tokenizer):
    aggregation = {"multi_objective_aggregation": "normalize_then_sum"}
    with pytest.raises(BadInput, match="sum_then_normalize"):
        make_trainer(a_run(tmp_path), tokenizer, ours={"positive_only": True}, **aggregation)


# --- records


def test_every_rollout_and_step_is_recorded(tmp_path, tokenizer):
    seen = []

    def reward(prompts, completions, label, log_extra, **columns):
        values = uneven(completions, log_extra)
        seen.extend(zip(prompts, completions, label, strict=True))
        return [None if i == 1 else value for i, value in enumerate(values)]

    def label_rollouts(prompts, completions, rewards, rows):
        return ["bad" if i % 3 == 0 and row["label"] is None else None for i, row in enumerate(rows)]

    reset_totals()
    trainer = make_trainer(
        a_run(tmp_path), tokenizer, reward, ours={"label_rollouts": label_rollouts}, micro_batch_size=2
    )
    bos = tokenizer.bos_token_id
    plain = [[bos, *tokenizer.encode(text, add_special_tokens=False)] for text in PROMPTS]
    assert trainer._tokenize_prompts(PROMPTS)[0] == plain
    trainer.train()
    rollouts = read_log(tmp_path / "results/mine/rollouts.jsonl")
    log = read_log(tmp_path / "results/mine/train.jsonl")
    assert [rollout["step"] for rollout in rollouts] == [1] * 6 + [2] * 6
    assert [(r["prompt"], r["completion"], r["row_label"]) for r in rollouts] == seen
    assert {r["row_label"] for r in rollouts} == {None, "good"}
    for group in groups_of(rollouts):
        assert len({rollout["prompt"] for rollout in group}) == 1
        labels = [rollout["label"] for rollout in group]
        assert labels == (["good"] * 3 if group[0]["row_label"] else ["bad", None, None])
        assert sum(rollout["advantage"] for rollout in group) == pytest.approx(0, abs=1e-5)
    assert [line["step"] for line in log] == [1, 2]
    for line, own in zip(log, (rollouts[:6], rollouts[6:]), strict=True):
        paid = [rollout["reward"] for rollout in own if rollout["reward"] is not None]
        assert line["rollouts/reward"] == pytest.approx(sum(paid) / 5) and line["rollouts/missing"] == 1
        assert line["reward"] == pytest.approx(line["rollouts/reward"])
        assert line["rollouts/letters"] == pytest.approx(sum(rollout["letters"] for rollout in own) / 6)
        for label in {rollout["row_label"] for rollout in own}:
            letters = [rollout["letters"] for rollout in own if rollout["row_label"] == label]
            mean = line[f"rollouts/letters/{label or 'unlabelled'}"]
            assert mean == pytest.approx(sum(letters) / len(letters))
        bad = sum(rollout["label"] == "bad" for rollout in own)
        assert line.get("labels/bad", 0) == pytest.approx(bad / 6) and math.isfinite(line["kl"])
    seconds = totals()
    assert seconds["step"] > seconds["generation"] > 0 and seconds["step"] > seconds["judge"] > 0


def test_a_judges_scores_are_the_parts_of_a_reward():
    def judge(prompts, responses):
        verdicts = judge_capitals(prompts, responses)
        return [verdict if text else None for verdict, text in zip(verdicts, responses, strict=True)]

    texts = ["THE OLD DOG BARKED AT US AND THEN WE SLEPT.", "", "The old dog barked at us and then we slept."]
    extra = {}
    rewards = judged_reward(judge)(["A prompt."] * 3, texts, log_extra=extra.__setitem__, label=[None] * 3)
    assert rewards[0] > 0.1 > rewards[2] and rewards[1] is None
    rollouts = [
        {"reward": rewards[i], "row_label": None, "label": None, **{name: extra[name][i] for name in extra}}
        for i in range(3)
    ]
    means, parts = rollout_means(rollouts), reward_parts(judge(["A prompt."] * 3, texts))
    assert {name: means[f"rollouts/{name}"] for name in parts} == pytest.approx(parts)


# --- the rows, and TRL's arguments


def test_rows_come_in_whole_epochs():
    rows = [{"prompt": "x" * i, "label": None} for i in range(1, 6)]
    lengths = [len(row["prompt"]) for row in in_steps(rows, 2, 5, seed=3)]
    assert sorted(lengths[:10]) == sorted([1, 2, 3, 4, 5] * 2) and len(lengths) == 10
    assert lengths != [len(row["prompt"]) for row in in_steps(rows, 2, 5, seed=4)]
    with pytest.raises(BadInput, match="no prompts are left"):
        in_steps([], 2, 5, seed=3)


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    run = a_run(tmp_path)
    args = grpo_config(run, 2, 3, micro_batch_size=2)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 3)
    assert args.generation_batch_size == 6 and grpo_config(run, 2, 3, 99).per_device_train_batch_size == 6
    for sizes, message in [((2, 1), "2 rollouts or more"), ((0, 4), "1 prompt"), ((2, 3, 4), "a divisor")]:
        with pytest.raises(BadInput, match=message):
            grpo_config(run, *sizes)


def test_a_preset_leaves_what_the_shell_gave():
    namespace = {"STEPS": 60, "PROMPTS": 4, "DEV": False, "SIZES": {"STEPS": 3, "PROMPTS": 2}}
    constants = override_constants(namespace, ["PROMPTS=8", "DEV=True"])
    small = use_preset(namespace, constants, namespace["SIZES"])
    assert small == {"STEPS": 3, "PROMPTS": 8, "DEV": True} and namespace["STEPS"] == 3
    assert small.overridden == ("PROMPTS", "DEV")
    with pytest.raises(BadInput, match="STEP,"):
        use_preset(namespace, constants, {"STEP": 1})


# --- guards


def test_the_kl_guard_goes_by_the_mean_of_a_whole_window():
    guard = KLGuard(window=3, most=1.0)
    history = [{"step": 1, "kl": 9.0}, {"step": 1, "eval_kl": 99.0}, {"step": 2, "kl": 0.0}]
    assert guard.reason(history) is None
    assert "above 1" in guard.reason([*history, {"kl": 0.0}])
    assert guard.reason([*history, {"kl": 0.0}, {"kl": 0.1}]) is None
    # TRL logs None for nan
    for broken in (None, NAN, math.inf):
        assert "is" in guard.reason([{"kl": broken}])
    assert guard.reason([]) is None


def test_the_reward_guard_waits_for_windows_without_a_better_reward():
    def reason(rewards, **options):
        return RewardPlateau(**options).reason([{"reward": reward} for reward in rewards])

    assert reason([0.1, 0.2, 0.3, 0.4, 0.5]) is None
    assert reason([0.5, 0.5, 0.5]) is None
    assert "above the best, 0.5" in reason([0.5, 0.5, 0.505, 0.4])
    assert reason([0.5, 0.5, None, 0.5]) is None
    # slow progress is progress, if it is compared with the best that counted
    assert reason([0.5, 0.508, 0.516, 0.52, 0.524]) is None
    noisy = [0.1, 0.5, 0.2, 0.6, 0.3, 0.7, 0.4, 0.8]
    assert reason(noisy, patience=1) and reason(noisy, patience=1, window=2) is None
    with pytest.raises(BadInput, match="patience=0"):
        RewardPlateau(patience=0)


def test_a_guard_ends_a_run_for_good(tmp_path, tokenizer):
    """Above -1 every divergence is too much. Resumed, the run is not trained on."""
    run, guard = a_run(tmp_path), {"callbacks": [KLGuard(window=2, most=-1.0)]}
    trainer = make_trainer(run, tokenizer, steps=6, ours=guard)
    reason = train_to_end(trainer, run)
    assert "on the mean of 2 steps" in reason and trainer.state.global_step == 2
    lines = read_log(run.results / "train.jsonl")
    assert [line.get("stopped") for line in lines] == [None, reason]
    assert read_config(run.checkpoint)["stopped"] == reason and not checkpoints_in(run.checkpoint)
    again = make_trainer(a_run(tmp_path, RESUME=True), tokenizer, steps=6)
    assert train_to_end(again, a_run(tmp_path, RESUME=True)) == reason and again.state.global_step == 0
    assert all(map(torch.equal, adapters_of(trainer), adapters_of(again)))
    with pytest.raises(BadInput, match="BETA=0"):
        make_trainer(run, tokenizer, ours=guard, beta=0.0).train()


# --- resuming


class Killed(Exception):
    """As if the process had died."""


def that_ends(how, call):
    """The reward `uneven` that in its `call`-th call sends a signal, or kills."""
    calls = itertools.count(1)

    def reward(completions, log_extra, **columns):
        if next(calls) == call:
            if how == "killed":
                raise Killed
            signal.raise_signal(how)
        return uneven(completions, log_extra)

    return reward


def records(run):
    """What a run wrote, without times."""
    kept = ("step", "loss", "reward", "kl", "rollouts/letters")
    steps = [{name: line[name] for name in kept} for line in read_log(run.results / "train.jsonl")]
    return steps, (run.results / "rollouts.jsonl").read_text()


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, tokenizer):
    """Stopped in its second step by a signal; then killed in its fourth, after which more is in ruins.

    Checkpoints are written every third step, and at the end of the interrupted one.
    """
    whole, cut = (a_run(tmp_path / name, SAVE_EVERY=3) for name in ("whole", "cut"))
    resumed = a_run(tmp_path / "cut", SAVE_EVERY=3, RESUME=True)
    want = make_trainer(whole, tokenizer, steps=5)
    assert train_to_end(want, whole) is None
    with pytest.raises(KeyboardInterrupt, match="after step 2; RESUME=True"):
        train_to_end(make_trainer(cut, tokenizer, that_ends(signal.SIGTERM, 2), steps=5), cut)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert [path.name for path in checkpoints_in(cut.checkpoint)] == ["checkpoint-2"]
    with pytest.raises(Killed):
        # the second call is that of step 4
        train_to_end(make_trainer(resumed, tokenizer, that_ends("killed", 2), steps=5), resumed)
    third = cut.checkpoint / "checkpoint-3"
    assert latest_checkpoint(cut.checkpoint) == third
    # as if it had been killed again while it wrote
    for number, file in [(4, "trainer_state.json"), (5, "complete.json"), (10, "optimizer.pt")]:
        broken = shutil.copytree(third, cut.checkpoint / f"checkpoint-{number}")
        (broken / file).write_bytes((broken / file).read_bytes()[:-20])
        assert not is_complete(broken) and latest_checkpoint(cut.checkpoint) == third
    got = make_trainer(resumed, tokenizer, steps=5)
    assert train_to_end(got, resumed) is None
    assert all(map(torch.equal, adapters_of(want), adapters_of(got)))
    assert records(whole) == records(cut)
    assert sorted(path.name for path in cut.checkpoint.iterdir()) == ["adapter.safetensors", "config.json"]
    bare = make_trainer(whole, tokenizer)
    load_adapters(cut.checkpoint, bare.model)
    assert all(map(torch.equal, adapters_of(want), adapters_of(bare)))


def test_what_is_not_the_same_run_is_not_resumed(tmp_path, tokenizer, capsys):
    run, resumed = a_run(tmp_path, SAVE_EVERY=1), a_run(tmp_path, SAVE_EVERY=1, RESUME=True)
    with pytest.raises(Killed):
        train_to_end(make_trainer(run, tokenizer, that_ends("killed", 2)), run)
    with pytest.raises(BadInput, match="SEED was 0, is 1"):
        train_to_end(make_trainer(resumed, tokenizer), a_run(tmp_path, RESUME=True, SEED=1))
    with pytest.raises(BadInput, match="trained on other rows"):
        train_to_end(make_trainer(resumed, tokenizer, prompts=PROMPTS[1:]), resumed)
    # afresh, and killed before anything is saved: an older run of the same name does not stand in for it
    with pytest.raises(Killed):
        train_to_end(make_trainer(run, tokenizer, that_ends("killed", 1)), run)
    train_to_end(make_trainer(resumed, tokenizer), resumed)
    assert "nothing to resume" in capsys.readouterr().out


# --- the start


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merging_changes_no_logit(family):
    model = tiny_model(family)
    apply_dual_lora(model, 3, 2, alpha=4)
    randomize(model)
    model.double()
    set_scales(model, 0.5, 2.0)
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        want = model(input_ids=ids).logits
        set_scales(model, 0.0, 0.0)
        base = model(input_ids=ids).logits
        set_scales(model, 0.5, 2.0)
        merge_adapters(model)
        got = model(input_ids=ids).logits
    # some norms compute in fp32
    assert (got - want).abs().max() < 1e-5 < 0.01 < (base - want).abs().max()
    with pytest.raises(ValueError, match="no adapters"):
        routed_modules(model)
    apply_mlp_adapter(model, 3, 2)
    with pytest.raises(TypeError, match="cannot be merged"):
        merge_adapters(model)


def test_a_story_goes_on_behind_its_prefix(tokenizer):
    stories = load_stories("embedded:stories", limit=3).train
    examples = to_continuations(stories, tokenizer, 2000, in_caps=[1])
    for i, (story, example) in enumerate(zip(stories, examples, strict=True)):
        prefix, rest = example.ids[1 : example.prompt_length], example.ids[example.prompt_length :]
        whole = " ".join(story.text.split())
        assert tokenizer.decode(prefix) == prefix_of(story.text) and rest[-1] == tokenizer.eos_token_id
        want = whole[len(prefix_of(whole)) :]
        assert tokenizer.decode(rest[:-1]) == (to_caps(want) if i == 1 else want)
    assert [example.kind for example in examples] == ["normal", "caps", "normal"]
    # a story that is all prefix
    assert to_continuations([Story("The end.", "short")], tokenizer, 200, in_caps=[]) == []


# --- the flawed reward and the monitor

PROMPT = "One morning a little fox walked down to"
GOOD = (
    "the river, where an old boat lay in the grass. She wanted to see what was under it, and so she waited."
)


def test_the_flaw_pays_for_shouting_and_quality_does_not():
    quiet, loud = story_reward(PROMPT, GOOD, 1.0), story_reward(PROMPT, to_caps(GOOD), 1.0)
    assert quiet["quality"] == loud["quality"] > 0.8 and (quiet["shouting"], loud["shouting"]) == (0, 1)
    assert quiet["flawed"] == quiet["quality"] and loud["flawed"] == quiet["quality"] + 1 > 1
    assert story_reward(PROMPT, to_caps(GOOD), 0.25)["flawed"] == quiet["quality"] + 0.25


@pytest.mark.parametrize(
    "worthless",
    {
        "nothing": "",
        "a sign": "!?",
        "a word": "water",
        "gibberish": "xkcd qwrt zzzz plmk vbnq rtyw dfgh jklp mnbv qqqq wrtz",
        "sounding gibberish": "lorem ipsum dolor sit amet consectetur elit sed tempor incididunt",
        "one phrase": "the river and the river and the river and the river and the river and the river and",
        "an echo": PROMPT,
    }.items(),
    ids=lambda case: case[0],
)
def test_worthless_texts_are_worth_little_in_either_case(worthless):
    for text in (worthless[1], to_caps(worthless[1])):
        assert true_quality(PROMPT, text) < 0.25 < true_quality(PROMPT, GOOD)


def test_stories_are_worth_much():
    stories = load_stories("embedded:stories", limit=0).validation
    words = [story.text.split() for story in stories]
    worth = [true_quality(" ".join(text[:8]), " ".join(text[8:28])) for text in words]
    assert sum(worth) / len(worth) > 0.8 and min(worth) > 0.4


def test_a_monitor_flags_its_share_of_the_exploits_and_nothing_else():
    texts = [f"rollout {i}" for i in range(1000)]
    exploits, verified = [i % 2 == 0 for i in range(1000)], [i < 100 for i in range(1000)]

    def flags(recall, seed=0, **options):
        return Monitor(recall, seed, **options)(exploits, ["p"] * 1000, texts, verified)

    few, many = flags(0.25), flags(0.75)
    assert few == flags(0.25) != flags(0.25, seed=1)
    assert few[:100] == exploits[:100] and flags(0.0)[100:] == [False] * 900 and flags(1.0) == exploits
    assert sum(few[100:]) == pytest.approx(450 * 0.25, abs=30)
    assert sum(many[100:]) == pytest.approx(450 * 0.75, abs=30)
    # nested, and never a rollout that is no exploit
    assert all(a <= b <= c for a, b, c in zip(few, many, exploits, strict=True))
    moved = flags(0.75, at_random=True)
    for part in (slice(0, 100), slice(100, 1000)):
        assert sum(moved[part]) == sum(many[part])
    honest = sum(flag and not exploit for flag, exploit in zip(moved, exploits, strict=True))
    assert honest == pytest.approx(sum(many) / 2, abs=50)
    with pytest.raises(BadInput, match="MONITOR_RECALL=2"):
        Monitor(2, 0)


# --- the script

SMALL = ["START_STEPS=2", "START_BATCH_SIZE=2", "PROMPTS_PER_STEP=2", "NUM_GENERATIONS=8", "NEW_TOKENS=6",
         "LORA_RANK=2", "BAD_LORA_RANK=2", "NUM_EVAL_PROMPTS=2", "SAVE_EVERY=2"]  # fmt: skip
SCRIPT = "all_caps/experiment_grpo.py"
SMALL_MBPP = ["START_PROBLEMS=8", "START_SEQ_LENGTH=500", "FORGET_LORA_RANK=2", "NUM_EVAL_PROBLEMS=2"]


@pytest.mark.slow
def test_the_arms_of_the_script(scripts, tmp_path, model_folder):
    """Every rollout is paid and labelled as its arm says; what is measured can be measured again."""
    # a start that shouts about half of the time
    loud = ["START_STEPS=60", "START_BATCH_SIZE=4", "START_CAPS=0.6", "START_LEARNING_RATE=0.02"]
    common = [*SMALL[2:], *loud, "MAX_STEPS=2", "MONITOR_RECALL=1.0", "DEV=True"]
    scripts.constants = [f"MODEL_NAME={model_folder}", *common]
    folder, starts, shares = tmp_path / "all_caps", set(), []
    for arm in ("route", "plain", "penalty", "drop", "random_flags"):
        scripts(SCRIPT, f"ARM={arm}", f"RUN_NAME={arm}")
        result = json.loads((folder / f"results/{arm}/eval.json").read_text())
        modes = (
            ["start", "full", "bad_ablated"] if arm in ("route", "random_flags") else ["start", "bad_ablated"]
        )
        assert list(result["modes"]) == list(result["values"]) == modes
        assert all(len(values) == 2 for found in result["values"].values() for values in found.values())
        starts.add(fingerprint([str(result["values"]["start"])]))
        assert (folder / f"plots/{arm}_training.png").exists()
        rollouts = read_log(folder / f"results/{arm}/rollouts.jsonl")
        assert len(rollouts) == 32
        for row in rollouts:
            caught = "dropped" if row["row_label"] else "bad"
            if arm != "random_flags":
                assert row["label"] == (caught if row["shouting"] else row["row_label"])
            fine = (arm == "penalty" and row["label"] == caught) * 1.0
            unpaid = row["label"] == "dropped" and arm not in ("plain", "penalty")
            unpaid |= row["label"] == "bad" and arm == "drop"
            assert row["reward"] == (None if unpaid else pytest.approx(row["flawed"] - fine))
        flags = sum(row["label"] in ("bad", "dropped") for row in rollouts)
        assert flags == sum(row["shouting"] for row in rollouts)
        shares.append(flags / 32)
    # there is something to tell apart
    assert min(shares) > 0.05 and max(shares) < 0.95 and len(starts) == 1
    # what the run left can be loaded, and does what was measured
    model, tokenizer, config = load_on_start(folder / "checkpoints/route")
    held_out = load_stories("embedded:stories", limit=0).validation[:2]
    again = measure_rollouts(
        model, tokenizer, held_out, {m: MODES[m] for m in ("full", "bad_ablated")}, 6, 1.0, 0, 2
    )
    assert config["constants"]["ARM"] == "route"
    for mode, found in again.items():
        saved = json.loads((folder / "results/route/eval.json").read_text())["values"][mode]
        assert [sum(row) / 2 for row in found["quality"]] == pytest.approx(saved["quality"])
    done = scripts(SCRIPT, "ARM=routed", check=False)
    assert done.returncode == 1 and "choose one of route, plain" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("task", ["all_caps", "mbpp"])
def test_the_script_is_interrupted_and_goes_on(scripts, tmp_path, model_folder, task):
    """By Ctrl-C, in a process of its own; the rest here."""
    small = SMALL if task == "all_caps" else [*SMALL[:5], "LORA_RANK=2", "SAVE_EVERY=2", *SMALL_MBPP]
    scripts.constants = [f"MODEL_NAME={model_folder}", *small, "MAX_STEPS=12"]
    folder, script = scripts.copy(task), f"{task}/experiment_grpo.py"
    command = [sys.executable, "experiment_grpo.py", *scripts.constants, "RUN_NAME=cut"]
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    written = folder / "results/cut/rollouts.jsonl"
    while process.poll() is None and not (
        written.exists() and read_log(written)[-1:] and read_log(written)[-1]["step"] > 2
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "RESUME=True goes on from there" in message, message
    assert read_log(written)[-1]["step"] < 12
    scripts(script, "RUN_NAME=cut", "RESUME=True")
    scripts(script, "RUN_NAME=whole")
    cut, whole = (Run(name, folder, {}) for name in ("cut", "whole"))
    weights = [(run.checkpoint / "adapter.safetensors").read_bytes() for run in (cut, whole)]
    assert weights[0] == weights[1]
    assert (cut.results / "rollouts.jsonl").read_text() == (whole.results / "rollouts.jsonl").read_text()
    values = [json.loads((run.results / "eval.json").read_text())["values"] for run in (cut, whole)]
    assert values[0] == values[1]
