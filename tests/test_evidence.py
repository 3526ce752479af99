"""Grids of cells, what is kept of them, crossed intervals, claims; the arms and the report on a tiny model."""

import itertools
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import norm, ttest_1samp

from lab.evidence import Evidence, Measure
from lab.grid import Store, make_cells
from lab.intervals import crossed_difference, crossed_mean, crossed_rate, rate_interval
from lab.relearning import by_prompt, relearning_summary
from lab.report import Claim, claims_table, distances_table, examples_for, left_out, measures_table
from lab.sweeps import constants_as_run
from routing.batches import announce, make_example

UNITS = [i // 6 for i in range(66)]


def test_coverage_over_seeds_and_prompts():
    """Seeds, plots and stories all vary: about 95% of the intervals, or more, hold the truth."""
    random = np.random.default_rng(0)
    held = {"difference": 0, "rate": 0, "difference of rates": 0}
    plots = np.array(UNITS)

    def latent(mean: float) -> np.ndarray:
        common = random.normal(mean, 0.4, size=3)[:, None] + 0.8 * random.normal(size=11)[plots]
        return (common + random.normal(size=(3, 66)) > 0).astype(float)

    true = norm.cdf(1 / (1 + 0.4**2 + 0.8**2) ** 0.5)
    for _ in range(300):
        values = 0.3 * random.normal(size=(3, 1)) + 0.3 * random.normal(size=11)[plots]
        values = values + 0.5 * random.normal(size=(3, 66))
        low, high = latent(-1.0), latent(1.0)
        for name, interval, truth in (
            ("difference", crossed_difference(np.zeros((3, 66)), values, UNITS), 0.0),
            ("rate", crossed_rate(high, UNITS), true),
            ("difference of rates", crossed_difference(low, high, UNITS, rates=True), 2 * true - 1),
        ):
            held[name] += interval["low"] <= truth <= interval["high"]
    assert all(0.91 * 300 <= count < 300 for count in held.values()), held


def test_crossed_intervals_at_the_edges():
    gone = crossed_difference([[1.0] * 66] * 3, [[0.0] * 66] * 3, UNITS, rates=True)
    assert gone["mean"] == gone["low"] == -1.0 and -0.75 < gone["high"] < -0.5 and gone["n"] == 3
    never = crossed_rate([[0.0] * 66] * 3, UNITS)
    assert never["mean"] == never["low"] == 0.0 and 0.2 < never["high"] < 0.3
    # of one seed without units it is the t interval over prompts
    values = np.random.default_rng(0).normal(size=40)
    want = ttest_1samp(values, 0).confidence_interval(0.95)
    found = crossed_mean([values])
    assert (found["low"], found["high"]) == pytest.approx((want.low, want.high))
    # seeds that disagree count, however many prompts there are
    apart = crossed_mean([[0.0] * 1000, [1.0] * 1000, [0.5] * 1000])
    assert apart["low"] < -0.5 and apart["high"] > 1.5


MEASURES = [Measure("rate", "rate", rate=True), Measure("loss", "loss", rate=False)]


def grid(tmp_path):
    """Two methods, two shares, two seeds; of which one cell was not run."""
    script = tmp_path / "experiment_arms.py"
    script.write_text(
        'ARM = ""\nLABELED = 0.0\nADAPTER_TYPE = ""\nSEED = 0\nPROBE_EVERY = 9\nRATE = 0.5\n# %%\n'
    )
    methods = {name: lambda share, name=name: [f"ARM={name}"] for name in ("filter", "route")}
    blocks = [(["lora"], (0, 1), [name], (0.5, 1.0)) for name in ("filter", "route")]
    cells = make_cells(script, "LABELED", methods, blocks, ["PROBE_EVERY=0"])
    store = Store(tmp_path / "cells.jsonl")
    units = {"rate": UNITS, "loss": UNITS}
    for cell in cells[:-1]:
        rate = 1.0 if cell.method == "filter" and cell.labeled < 1 else 0.0
        made = constants_as_run(cell.job)
        values = {"kept": {"rate": [rate] * 66, "loss": [2.0 + cell.seed + 0.01 * (rate == 0)] * 66}}
        values["shrunk"] = {"rate": [0.5] * 66, "loss": [3.0] * 66}
        result = tmp_path / "results" / cell.job.run / "eval.json"
        result.parent.mkdir(parents=True)
        result.write_text(json.dumps({"values": values, "units": units, "constants": made}))
        store.put(cell)
    return cells, store


def test_a_store_keeps_what_was_measured(tmp_path):
    cells, store = grid(tmp_path)
    again = Store(tmp_path / "cells.jsonl")
    assert again.records == store.records and len(again.records) == 7
    assert again.find(cells[-1]) is None and all(again.find(cell) for cell in cells[:-1])
    script = cells[0].job.script
    text = script.read_text()
    # another default is another run; a constant that is new at its default is not
    script.write_text(text.replace("RATE = 0.5", "RATE = 0.1"))
    assert again.find(cells[0]) is None
    script.write_text(text.replace("# %%", "NEW = 1\n# %%"))
    assert again.find(cells[0])
    # a second grid that wrote to the same file keeps what the first one has
    other = Store(tmp_path / "cells.jsonl")
    store.put(cells[0])
    other.put(cells[1])
    assert len(Store(tmp_path / "cells.jsonl").records) == 9
    given = replace(cells[0], job=replace(cells[0].job, constants=(*cells[0].job.constants, "NEW=1")))
    assert again.find(given) is None
    # a dtype that a machine chose is kept, and asked for only where the cell gives one
    script.write_text(text.replace("# %%", 'DTYPE = "auto"\n# %%'))
    made = json.loads((tmp_path / "results" / cells[0].job.run / "eval.json").read_text())
    made["constants"]["DTYPE"] = "auto"
    (tmp_path / "results" / cells[0].job.run / "eval.json").write_text(json.dumps(made))
    (tmp_path / "checkpoints" / cells[0].job.run).mkdir(parents=True)
    (tmp_path / "checkpoints" / cells[0].job.run / "config.json").write_text('{"base_dtype": "bfloat16"}')
    fresh = Store(tmp_path / "fresh.jsonl")
    fresh.put(cells[0])
    assert fresh.records[0]["constants"]["DTYPE"] == "bfloat16" and fresh.find(cells[0])
    for dtype, there in (("bfloat16", True), ("float32", False)):
        constants = (*cells[0].job.constants, f"DTYPE={dtype}")
        asked = replace(cells[0], job=replace(cells[0].job, constants=constants))
        assert bool(fresh.find(asked)) == there
    assert cells[0].job.constants == (
        "LABELED=0.5", "ADAPTER_TYPE=lora", "SEED=0", "PROBE_EVERY=0", "ARM=filter",
    )  # fmt: skip


def test_what_the_cells_show(tmp_path):
    cells, store = grid(tmp_path)
    evidence = Evidence(cells, store, "kept", MEASURES)
    route, deleting = ("route", 0.5), ("filter", 0.5)
    difference = evidence.difference("rate", route, deleting, "lora")
    assert difference["mean"] == -1.0 and difference["high"] < -0.5 and difference["n"] == 2
    cost = evidence.relative("loss", route, deleting, "lora")
    assert cost["mean"] == pytest.approx(0.01 / 2.5)
    assert evidence.relative("rate", deleting, route, "lora") is None  # of nothing there is no share
    doubled = evidence.relative("rate", deleting, deleting, "lora")
    assert doubled["mean"] == 0 and doubled["low"] < -0.1 and doubled["high"] > 0.1
    shrunk = evidence.difference("rate", route, (*deleting, "shrunk"), "lora")
    assert (
        shrunk["mean"] == -0.5
        and evidence.difference("rate", (*route, "shrunk"), route, "lora")["mean"] == 0.5
    )
    # seed 1 of the last cell is missing: what is left is paired
    assert evidence.difference("rate", ("route", 1.0), deleting, "lora")["n"] == 1
    assert evidence.difference("rate", route, deleting, "mlp") is None
    claims = [
        Claim("lower", difference),
        Claim("higher", difference, above=True),
        Claim("lower than -0.9", difference, bound=-0.9),
        Claim("unknown", None),
    ]
    # two seeds are a lead; of three the same would be a result
    assert [claim.verdict for claim in claims] == [
        "a lead", "a lead against it", "not shown", "not measured",
    ]  # fmt: skip
    against_a_loss = evidence.difference("rate", route, deleting, "lora", minus="loss")
    assert against_a_loss["mean"] == -2.5
    three = [replace(claim, interval={**difference, "n": 3}) for claim in claims[:3]]
    assert [claim.verdict for claim in three] == ["shown", "refuted", "not shown"]
    assert "| higher | -1.000 [-1.000, " in claims_table(claims) and "| n/a | 0 |" in claims_table(claims)
    assert "| lora | filter | 50% | kept | 2 | 1.00 [0.74, 1.00] | 2.500" in measures_table(evidence)
    assert left_out(evidence) == "Not measured: evidence_route_100_lora_seed1."
    evidence.write_csv(tmp_path / "cells.csv")
    rows = (tmp_path / "cells.csv").read_text().splitlines()
    assert rows[0] == "method,labeled,adapter_type,seed,mode,rate,loss,dtype,constants" and len(rows) == 15
    assert rows[1].startswith("filter,0.5,lora,0,kept,1.0000,2.0000,,LABELED=0.5")


def weights_of(folder, name: str) -> dict:
    return load_file(folder / f"checkpoints/{name}/adapter.safetensors")


@pytest.mark.parametrize(
    "arm",
    ["none", "filter", "filter_detected", "filter_classified", "trusted", "random_labels", "inoculation"],
)
def test_arms(scripts, tmp_path, arm):
    """Of a plain arm only the good adapter learns: bad stays the fresh one that changes nothing.

    In "filter_detected" bad is the detector."""
    constants = ["RUN_NAME=mine", "CAPS_PERCENTAGE=0.5", "LABELED_GOOD_PERCENTAGE=0.5"]
    constants += ["LABELED_BAD_PERCENTAGE=0.7"] if arm == "filter_detected" else []
    scripts("all_caps/experiment_arms.py", f"ARM={arm}", *constants)
    folder = tmp_path / "all_caps"
    result = json.loads((folder / "results/mine/eval.json").read_text())
    routed = arm == "random_labels"
    other = {"random_labels": {"full"}, "none": {"shrunk"}}.get(arm, set())
    assert set(result["values"]) == {"bad_ablated", *other}
    assert {len(values) for values in result["values"]["bad_ablated"].values()} == {2}
    learnt = {name: tensor.abs().sum().item() > 0 for name, tensor in weights_of(folder, "mine").items()}
    assert all(learnt[name] for name in learnt if name.endswith("B_good"))
    bad_learns = routed or arm == "filter_detected"
    assert any(learnt[name] for name in learnt if name.endswith("B_bad")) == bad_learns


def test_what_is_deleted_changes_nothing(scripts, tmp_path):
    """With all capitals labelled, a filter run is the same whatever the capitals say; a plain one is not."""
    folder = scripts.copy("all_caps")
    for arm in ("filter", "none"):
        constants = [f"ARM={arm}", "CAPS_PERCENTAGE=0.5", "LABELED_BAD_PERCENTAGE=1.0"]
        scripts("all_caps/experiment_arms.py", *constants, f"RUN_NAME={arm}")
        script = (folder / "experiment_arms.py").read_text()
        changed = script.replace(
            "in_caps=caps, labels=labels)\n",
            "in_caps=caps, labels=labels)\n"
            "examples = [replace(e, ids=e.ids[::-1]) if e.label == 'bad' else e for e in examples]\n",
        ).replace("import torch\n", "import torch\nfrom dataclasses import replace\n", 1)
        assert changed != script
        (folder / "experiment_changed.py").write_text(changed)
        scripts("all_caps/experiment_changed.py", *constants, f"RUN_NAME={arm}_changed")
        one, other = weights_of(folder, arm), weights_of(folder, f"{arm}_changed")
        assert all(torch.equal(one[name], other[name]) for name in one) == (arm == "filter")


def test_filter_meets_the_batches_of_the_routed_arm(scripts, tmp_path):
    """With the same repeats: every step has the same kinds of examples."""
    constants = ["CAPS_PERCENTAGE=0.5", "LABELED_BAD_REPEATS=3"]
    logs = []
    for arm in ("filter", "route"):
        scripts("all_caps/experiment_arms.py", f"ARM={arm}", *constants, f"RUN_NAME={arm}")
        lines = (tmp_path / f"all_caps/results/{arm}/train.jsonl").read_text().splitlines()
        logs.append([(json.loads(line)["tokens"], *json.loads(line)["loss_by_kind"]) for line in lines])
    assert logs[0] == logs[1]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["route", "filter_classified"])
def test_arms_of_mbpp(scripts, tmp_path, arm):
    constants = ["MODEL_NAME=" + scripts.constants[0].split("=", 1)[1], "MAX_STEPS=2", "BATCH_SIZE=4",
                 "LORA_RANK=2", "FORGET_LORA_RANK=2", "NUM_EVAL_PROBLEMS=3", "EVAL_NEW_TOKENS=3"]  # fmt: skip
    scripts.constants = []
    scripts("mbpp/experiment_arms.py", f"ARM={arm}", "RUN_NAME=mine", *constants)
    result = json.loads((tmp_path / "mbpp/results/mine/eval.json").read_text())
    kept = result["values"]["forget_ablated"]
    assert set(kept) == set(result["units"])
    assert {name: len(values) for name, values in kept.items()} == {
        name: len(units) for name, units in result["units"].items()
    }
    assert ("full" in result["values"]) == (arm == "route")


def test_announcing_keeps_what_is_learnt(tokenizer):
    example = make_example(tokenizer, "", "THE FOX RAN HOME.", 8, "bad", "caps_labeled", size=17)
    told = announce(example, tokenizer, "In capitals:\n")
    assert told.ids[told.prompt_length :] == example.ids[example.prompt_length :]
    assert told.ids[0] == example.ids[0] == tokenizer.bos_token_id and len(told.ids) > len(example.ids)
    assert (told.bucket_size, told.kind, told.label) == (17, "caps_labeled", "bad")


def test_an_unknown_arm_is_refused(scripts):
    done = scripts("all_caps/experiment_arms.py", "ARM=filtre", check=False)
    assert done.returncode == 1 and "choose one of route, none, filter" in done.stderr


@pytest.mark.parametrize("folder", ["all_caps", "mbpp"])
def test_a_report_of_nothing_claims_nothing(scripts, tmp_path, folder):
    scripts.constants = []
    scripts(f"{folder}/evidence.py", "WORKERS=0")
    report = (tmp_path / folder / "results/evidence.md").read_text()
    assert "**not measured**" in report and "**shown**" not in report and "**refuted**" not in report
    assert "Not measured: evidence_filter_100_lora_seed0" in report
    wrong = scripts(f"{folder}/evidence.py", "PRESET=gpus", check=False)
    assert wrong.returncode == 1 and "choose one of cpu, published, gpu" in wrong.stderr


def test_the_report_of_reinforcement(scripts, tmp_path):
    """From cells made by hand: recall stands where other grids have the share labelled."""
    scripts.constants = []
    folder = scripts.copy("all_caps")
    grids = [("plain", 0.0, 0.95), ("route", 0.5, 0.05), ("drop", 0.5, 0.9)]
    plots = [i // 4 for i in range(44)]
    with (folder / "by_hand.jsonl").open("w") as file:
        for (arm, recall, rate), seed in itertools.product(grids, (0, 1, 2)):
            shouts = [float(i % 20 < 20 * rate) for i in range(44)]
            kept = {"shout_rate": shouts, "quality": [0.5 + 0.01 * (i % 3) for i in range(44)]}
            constants = {"ARM": arm, "MONITOR_RECALL": recall, "SEED": seed, "ADAPTER_TYPE": "lora"}
            constants |= {"EVAL_SPLIT": "test", "NUM_EVAL_PROMPTS": 44, "DTYPE": "float32"}
            values = {"bad_ablated": kept, "start": kept}
            units = {"shout_rate": plots, "quality": plots}
            file.write(json.dumps({"constants": constants, "values": values, "units": units}) + "\n")
    done = scripts("all_caps/evidence_grpo.py", "WORKERS=0", "PRESET=published", "OUTPUT=by_hand")
    verdicts = [line.rsplit("**")[1] for line in done.stdout.splitlines() if line.endswith("** |")]
    # of 11 plots that all shout the lower bound is 0.74
    assert verdicts[:7] == ["not shown"] * 2 + ["shown"] * 2 + ["not shown"] * 2 + ["shown"]
    assert "| 50% recall: routing leaves less than dropping | -0.8" in done.stdout
    assert "grpo_penalty_50_lora_seed0" in done.stdout.split("Not measured: ")[1]
    assert (folder / "by_hand.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_report_is_made_of_cells_and_goes_on_where_it_stopped(scripts, tmp_path):
    folder = scripts.copy("all_caps")
    common = [*scripts.constants, "EVAL_SPLIT=test"]
    presets = ["PRESET=cpu", "WORKERS=2", f"COMMON={common}"]
    text = (folder / "evidence.py").read_text()
    small = '"cpu": [(LORA, (0,), ("filter",), (1.0,)), (LORA, (0,), ("filter", "exclusive"), (0.5,))],'
    text = re.sub(r'"cpu": .*', small, text)
    (folder / "evidence.py").write_text(text)
    scripts.constants = []
    done = scripts("all_caps/evidence.py", *presets)
    report = (folder / "results/evidence.md").read_text()
    assert (
        "| lora, 50% labelled: routing with the same labels leaves a lower caps rate than deleting |"
        in report
    )
    assert "Every cell of the grid was measured." in report and "n/a | 0 | **not measured**" in report
    assert (folder / "results/evidence.png").stat().st_size > 10_000
    assert len((folder / "results/evidence.csv").read_text().splitlines()) == 1 + 2 + 2
    shutil.rmtree(folder / "checkpoints")
    less = scripts("all_caps/evidence.py", *presets[:1], "WORKERS=0", f"COMMON={[*common, 'LORA_RANK=3']}")
    assert "Not measured: evidence_filter_100_lora_seed0" in less.stdout
    again = scripts("all_caps/evidence.py", *presets)
    assert "3 of 3 cells are in evidence.jsonl already" in again.stdout
    assert done.stdout.split("# all_caps")[1] == again.stdout.split("# all_caps")[1]
    assert not (folder / "checkpoints").exists()


def test_where_every_seed_has_prompts_of_its_own_seeds_are_the_units(tmp_path):
    cells, store = grid(tmp_path)
    alike = Evidence(cells, store, "kept", MEASURES).interval("rate", "route", 0.5, "lora")
    for record in store.records:
        seed = record["constants"]["SEED"]
        record["units"] = {
            name: [f"{seed} {unit}" for unit in units] for name, units in record["units"].items()
        }
    evidence = Evidence(cells, store, "kept", MEASURES)
    rates = [np.mean(r["values"]["kept"]["rate"]) for r in evidence.seeds("route", 0.5, "lora").values()]
    found = evidence.interval("rate", "route", 0.5, "lora")
    assert found == rate_interval([[rate] for rate in rates]) != alike
    pair = [("route", 0.5), ("filter", 0.5), "lora"]
    assert evidence.difference("loss", *pair)["n"] == evidence.relative("loss", *pair)["n"] == len(rates)


def test_as_if_trained_on_so_many_examples(tmp_path):
    # what the first examples teach lies on no straight line
    assert [examples_for(loss, {0: 4.0, 60: 3.0, 120: 2.0}) for loss in (5.0, 3.5, 2.5, 1.0)] == [
        "0", "<60", "90", ">120",
    ]  # fmt: skip
    cells, store = grid(tmp_path)
    evidence = Evidence(cells, store, "kept", MEASURES)
    table = distances_table(evidence, ("filter", 1.0), ["route"], "loss", lambda share: 10 * (1 - share))
    # of filter's two runs at 50% the one at 5 examples has the same loss as never having seen any
    assert "| lora | route | 50% | 0.000 [-" in table and re.search(r"\| 0 \[0, \d+\] \|$", table)


def test_relearning_summary():
    rates = {0: 0.0, 1: 0.6, 2: 0.2, 4: 0.5, 8: 1.0}
    curve = {seen: {"mean": rate, "low": rate, "high": rate} for seen, rate in rates.items()}
    summary = relearning_summary(curve)
    # a rate that comes and goes is not back
    assert summary["examples_until_back"] == 4 and 0.4 < summary["area"] < 0.6
    assert relearning_summary({0: curve[8], 1: curve[8]}) == {"examples_until_back": 0, "area": 1.0}
    assert relearning_summary({0: curve[0], 1: curve[2]})["examples_until_back"] is None


def test_half_as_many_examples():
    """A curve that is another's with n for 2n has its at_n where the other has its at_2n."""
    slow = {0: [0, 0], 1: [0, 0], 2: [0, 0], 4: [1, 0], 8: [1, 1]}
    fast = {0: [0, 0], 1: [0, 0], 2: [1, 0], 4: [1, 1], 8: [1, 1]}
    assert by_prompt(fast)["at_n"] == by_prompt(slow)["at_2n"] == pytest.approx([2 / 3, 1 / 3])
    assert by_prompt(slow)["at_n"] == pytest.approx([1 / 3, 0])
    assert "at_n" not in by_prompt({0: [0], 1: [1]})


def test_unlearning(scripts, tmp_path):
    """Both methods raise the loss on what they know to be bad more than on the rest."""
    scripts("all_caps/experiment_arms.py", "RUN_NAME=plain", "ARM=none", "CAPS_PERCENTAGE=0.5")
    folder = tmp_path / "all_caps"
    plain = json.loads((folder / "results/plain/eval.json").read_text())["values"]["bad_ablated"]
    scripts.constants = ["CHECKPOINT=checkpoints/plain", "NUM_EVAL_PROMPTS=2", "EVAL_NEW_TOKENS=3"]
    scripts.constants += ["UNLEARN_STEPS=8", "UNLEARN_BATCH_SIZE=2", "LEARNING_RATE=0.01"]
    for method, constants in {"gradient_difference": [], "rmu": ["RMU_LAYER=4", "RMU_STEERING=20.0"]}.items():
        scripts("all_caps/experiment_unlearn.py", f"METHOD={method}", f"RUN_NAME={method}", *constants)
        values = json.loads((folder / f"results/{method}/eval.json").read_text())["values"]["bad_ablated"]
        rise = {name: np.mean(values[name]) - np.mean(plain[name]) for name in ("caps_loss", "normal_loss")}
        assert rise["caps_loss"] > rise["normal_loss"], (method, rise)
    far = scripts("all_caps/experiment_unlearn.py", "METHOD=rmu", "RMU_LAYER=9", check=False)
    assert far.returncode == 1 and "give the output of a layer with adapters" in far.stderr


@pytest.mark.slow
def test_the_relearning_report_goes_on_where_it_stopped(scripts, tmp_path):
    scripts.copy("all_caps")
    folder = tmp_path / "all_caps"
    common = [f"COMMON={[*scripts.constants, 'EVAL_SPLIT=test']}", 'METHODS_COMPARED=["filter", "exclusive"]']
    common += ["LABELED=0.5", "SEEDS=[0]", "NUM_EXAMPLES=2"]
    common += ['COMMON_RELEARNING=["NUM_PROMPTS=2", "MAX_NEW_TOKENS=3"]']
    scripts.constants = []
    done = scripts("all_caps/evidence_relearn.py", *common, 'LEARNERS=["good"]')
    report = (folder / "results/relearning.md").read_text()
    assert "| exclusive, good: it takes at least as many |" in report and "evidence_relearn.py" in report
    assert "Every cell of the grid was measured." in report and "fresh:" not in report
    assert (folder / "results/relearning.png").stat().st_size > 10_000
    assert "| lora | never seen, good | 100% | relearnt | 1 |" in done.stdout
    # only the curves that are new are made; the checkpoints are there
    again = scripts("all_caps/evidence_relearn.py", *common)
    assert "3 of 7 cells are in relearning.jsonl already" in again.stdout
    assert "3 of 3 runs are complete already" in again.stdout
    assert "| lora | base, fresh | 100% | relearnt | 1 |" in again.stdout


@pytest.mark.parametrize(
    ("start", "learner"), [("kept", "good"), ("kept", "fresh"), ("kept", "all"), ("base", "fresh")]
)
def test_relearning(scripts, tmp_path, start, learner):
    """A curve and its figure; a curve of other constants is not overwritten."""
    scripts("all_caps/experiment.py", "RUN_NAME=mine", "CAPS_PERCENTAGE=0.5")
    folder = tmp_path / "all_caps"
    before = (folder / "checkpoints/mine/adapter.safetensors").read_bytes()
    scripts.constants = ["NUM_EXAMPLES=3", "NUM_PROMPTS=2", "MAX_NEW_TOKENS=3", "NORMAL_SHARE=1.0"]
    scripts(
        "all_caps/experiment_relearn.py",
        "CHECKPOINT=checkpoints/mine",
        f"START={start}",
        f"LEARNER={learner}",
    )
    name = f"mine_{start}_{learner}_mixed1_relearnseed0"
    result = json.loads((folder / f"results/{name}/eval.json").read_text())
    assert list(result["curve"]) == ["0", "1", "2", "3"]
    values = result["values"]["relearnt"]
    assert len(values["rate_3"]) == 2 and np.mean(values["area"]) == pytest.approx(result["area"])
    assert (folder / f"plots/{name}_relearning.png").stat().st_size > 10_000
    assert (folder / "checkpoints/mine/adapter.safetensors").read_bytes() == before
    again = scripts(
        "all_caps/experiment_relearn.py", "CHECKPOINT=checkpoints/mine", f"START={start}",
        f"LEARNER={learner}", "LEARNING_RATE=0.1", check=False,
    )  # fmt: skip
    assert again.returncode == 1 and "LEARNING_RATE was 0.0005, is 0.1" in again.stderr


def test_relearning_refuses_what_makes_no_sense(scripts):
    constants, scripts.constants = scripts.constants, []
    done = scripts("all_caps/experiment_relearn.py", "START=base", "LEARNER=good", check=False)
    assert done.returncode == 1 and "choose one of ('kept', 'good')" in done.stderr
    scripts("all_caps/experiment.py", "RUN_NAME=mine", *constants)
    other = ["CHECKPOINT=checkpoints/mine", f"TRAINED_WITH={['CAPS_PERCENTAGE=0.1', 'MAX_STEPS=9']}"]
    done = scripts("all_caps/experiment_relearn.py", *other, check=False)
    assert done.returncode == 1 and "was not trained with MAX_STEPS=9" in done.stderr
