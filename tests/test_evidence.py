"""Grids of cells, what is kept of them, crossed intervals, claims; and the evidence script on a tiny model."""

import json
import re
import shutil

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from lab.evidence import Claim, Evidence, Measure, claims_table, left_out, measures_table
from lab.grid import Store, make_cells
from lab.intervals import crossed_difference, crossed_mean, crossed_rate

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
    assert min(held.values()) >= 0.91 * 300, held


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
    methods = {name: lambda share, name=name: [f"ARM={name}"] for name in ("filter", "route")}
    preset = (["lora"], (0, 1), [(["filter"], (0.5, 1.0)), (["route"], (0.5, 1.0))])
    cells = make_cells(script, "LABELED", methods, preset, ["STEPS=1"])
    store = Store(tmp_path / "cells.jsonl")
    for cell in cells[:-1]:
        rate = 1.0 if cell.method == "filter" and cell.labeled < 1 else 0.0
        values = {"kept": {"rate": [rate] * 66, "loss": [2.0 + cell.seed + 0.01 * (rate == 0)] * 66}}
        result = tmp_path / "results" / cell.job.run / "eval.json"
        result.parent.mkdir(parents=True)
        result.write_text(json.dumps({"values": values, "units": {"rate": UNITS, "loss": UNITS}}))
        store.put(cell)
    return cells, store


def test_a_store_keeps_what_was_measured(tmp_path):
    cells, store = grid(tmp_path)
    again = Store(tmp_path / "cells.jsonl")
    assert again.records == store.records and len(again.records) == 7
    assert cells[-1].key not in again.records and len({cell.key for cell in cells}) == 8
    assert cells[0].job.constants == (
        "LABELED=0.5", "ADAPTER_TYPE=lora", "SEED=0", "STEPS=1", "ARM=filter",
    )  # fmt: skip


def test_what_the_cells_show(tmp_path):
    cells, store = grid(tmp_path)
    evidence = Evidence(cells, store, "kept", MEASURES)
    route, deleting = ("route", 0.5), ("filter", 0.5)
    difference = evidence.difference("rate", route, deleting, "lora")
    assert difference["mean"] == -1.0 and difference["high"] < -0.5 and difference["n"] == 2
    cost = evidence.relative("loss", route, deleting, "lora")
    assert cost["mean"] == pytest.approx(0.01 / 2.5)
    # seed 1 of the last cell is missing: what is left is paired
    assert evidence.difference("rate", ("route", 1.0), deleting, "lora")["n"] == 1
    assert evidence.difference("rate", route, deleting, "mlp") is None
    claims = [
        Claim("lower", difference),
        Claim("higher", difference, above=True),
        Claim("lower than -0.9", difference, bound=-0.9),
        Claim("unknown", None),
    ]
    verdicts = [claim.verdict for claim in claims]
    assert verdicts == ["shown", "refuted", "not shown", "not measured"]
    assert "| higher | -1.00 [-1.00, " in claims_table(claims) and "| n/a | 0 |" in claims_table(claims)
    assert "| lora | filter | 50% | kept | 2 | 1.00 [0.74, 1.00] | 2.500" in measures_table(evidence)
    assert left_out(evidence) == "Not measured: evidence_route_100_lora_seed1."
    evidence.write_csv(tmp_path / "cells.csv")
    rows = (tmp_path / "cells.csv").read_text().splitlines()
    assert rows[0] == "method,labeled,adapter_type,seed,mode,rate,loss,constants" and len(rows) == 8
    assert rows[1].startswith("filter,0.5,lora,0,kept,1.0000,2.0000,LABELED=0.5")


@pytest.mark.parametrize("arm", ["none", "filter", "trusted", "random_labels", "inoculation"])
def test_arms(scripts, tmp_path, arm):
    """Of a plain arm only the good adapter learns; what is deleted changes nothing."""
    scripts("all_caps/experiment_arms.py", f"ARM={arm}", "RUN_NAME=mine", "CAPS_PERCENTAGE=0.5")
    result = json.loads((tmp_path / "all_caps/results/mine/eval.json").read_text())
    assert set(result["values"]) == ({"full", "bad_ablated"} if arm == "random_labels" else {"bad_ablated"})
    assert {len(values) for values in result["values"]["bad_ablated"].values()} == {2}


def test_an_unknown_arm_is_refused(scripts):
    done = scripts("all_caps/experiment_arms.py", "ARM=filtre", check=False)
    assert done.returncode == 1 and "choose one of route, none, filter" in done.stderr


def test_the_report_is_made_of_cells_and_goes_on_where_it_stopped(scripts, tmp_path):
    folder = scripts.copy("all_caps")
    common = [*scripts.constants, "EVAL_SPLIT=test"]
    presets = ["PRESET=cpu", "WORKERS=2", f"COMMON={common}"]
    text = (folder / "evidence.py").read_text()
    small = '"cpu": (("lora",), (0,), [(("filter",), (1.0,)), (("filter", "recipe"), (0.5,))]),'
    text = re.sub(r'"cpu": .*', small, text)
    (folder / "evidence.py").write_text(text)
    scripts.constants = []
    done = scripts("all_caps/evidence.py", *presets)
    report = (folder / "results/evidence.md").read_text()
    assert "| lora, 50% labelled: routing leaves a lower caps rate than deleting |" in report
    assert "Every cell of the grid was measured." in report and "n/a | 0 | **not measured**" in report
    assert (folder / "results/evidence.png").stat().st_size > 10_000
    assert len((folder / "results/evidence.csv").read_text().splitlines()) == 1 + 2 + 2
    shutil.rmtree(folder / "checkpoints")
    again = scripts("all_caps/evidence.py", *presets)
    assert "3 of 3 cells are in evidence.jsonl already" in again.stdout
    assert done.stdout.split("# all_caps")[1] == again.stdout.split("# all_caps")[1]
    assert not (folder / "checkpoints").exists()
