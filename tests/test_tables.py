"""One list of columns drives tables, figures and seed tables; evaluation publishes paired differences."""

import subprocess
import sys

import pytest
from conftest import randomize, tiny_model

import all_caps.task
import mbpp.task
from adapters import apply_dual_lora
from all_caps.stories import Story, load_stories
from lab.plots import plot_comparison, plot_modes, plot_tradeoff
from lab.tables import Column, format_table, over_seeds, seed_table, value_at
from mbpp.scoring import Outcome
from routing.generation import MODES

COLUMNS = [
    Column(("caps", "upper"), "caps, UPPER", "share", bounded=True),
    Column(("loss",), "loss", "nats", bounded=False),
]


def interval(mean: float, width: float = 0.1) -> dict[str, float]:
    return {"mean": mean, "low": mean - width, "high": mean + width, "n": 5}


def run(caps: float) -> dict:
    ablated = {"caps": {"upper": interval(0.25)}, "loss": interval(2.5)}
    ablated["minus_full"] = {"caps": {"upper": interval(0.25 - caps)}, "loss": interval(0.5, 0.0)}
    return {"full": {"caps": {"upper": interval(caps)}, "loss": interval(2.0)}, "bad_ablated": ablated}


def test_printed_table():
    lines = format_table(run(0.75), COLUMNS).splitlines()
    assert [line.split() for line in lines] == [
        ["mode", "caps,", "UPPER", "loss"],
        ["full", "0.75", "[0.65,", "0.85]", "2.000", "[1.900,", "2.100]"],
        ["bad_ablated", "0.25", "[0.15,", "0.35]", "2.500", "[2.400,", "2.600]"],
        ["minus", "full", "-0.50", "[-0.60,", "-0.40]", "+0.500", "[0.500,", "0.500]"],
    ]
    assert len(set(map(len, lines))) == 1
    assert "n/a" in format_table({"full": {"caps": {"upper": interval(0.5)}}}, COLUMNS)


def test_seed_table_has_the_mean_and_range_and_of_one_seed_its_interval():
    entries = [{"modes": run(caps)} for caps in (0.5, 0.75, 1.0)]
    table, summary = seed_table({"routed": entries, "alone": entries[:1]}, COLUMNS)
    lines = table.splitlines()
    assert lines[:2] == ["| condition | mode | seeds | caps, UPPER | loss |", "|---|---|---|---|---|"]
    assert "| routed | full | 3 | 0.75 [0.50, 1.00] | 2.000 [2.000, 2.000] |" in lines
    assert "| alone | full | 1 | 0.50 [0.40, 0.60] | 2.000 [1.900, 2.100] |" in lines
    difference = value_at(summary["routed"]["bad_ablated"], ("minus_full", "caps", "upper"))
    assert difference == {"mean": -0.5, "low": -0.75, "high": -0.25}
    assert over_seeds([interval(1.0), interval(2.0)]) == {"mean": 1.5, "low": 1.0, "high": 2.0}


def test_figures_are_drawn_from_columns(tmp_path):
    results = {name: {"label": name, "modes": run(0.5)} for name in ("one", "two")}
    del results["two"]["modes"]["bad_ablated"]
    plot_modes(results["one"]["modes"], COLUMNS, tmp_path / "modes.png", "one")
    plot_comparison(results, ["gone"], COLUMNS, tmp_path / "runs.png", "mean and range over seeds")
    plot_tradeoff(results, *COLUMNS, tmp_path / "tradeoff.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 5_000 for name in ("modes", "runs", "tradeoff"))


def test_lab_imports_no_torch():
    code = "import sys, lab.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_evaluation_of_stories_pairs_modes_and_takes_the_plot_as_the_unit(tokenizer):
    model = tiny_model()
    apply_dual_lora(model, rank=2, bad_rank=2, alpha=2)
    randomize(model)
    stories = load_stories("embedded:stories").test[:6]
    texts = [Story(story.text, f"alone {i}") for i, story in enumerate(stories)]
    arguments = {"max_new_tokens": 3, "max_length": 32, "num_generations": 2}
    plain = all_caps.task.evaluate(model, tokenizer, texts, MODES, **arguments)
    plots = [Story(story.text, f"plot {i // 3}") for i, story in enumerate(stories)]
    grouped = all_caps.task.evaluate(model, tokenizer, plots, MODES, **arguments)
    assert list(plain) == list(MODES) and "minus_full" not in plain["full"]
    for mode in ("bad_ablated", "good_ablated", "base"):
        for column in all_caps.task.COLUMNS:
            alone, full = (value_at(plain[name], column.path) for name in (mode, "full"))
            difference = value_at(plain[mode]["minus_full"], column.path)
            assert difference["mean"] == pytest.approx(alone["mean"] - full["mean"])
            assert alone["n"] == difference["n"] == 6
            clustered = value_at(grouped[mode], column.path)
            assert clustered["mean"] == alone["mean"] and clustered["n"] == 2
    assert all_caps.task.evaluate(model, tokenizer, texts, {"base": MODES["base"]}, **arguments).keys() == {
        "base"
    }
    assert "minus full" in format_table(plain, all_caps.task.COLUMNS)


def outcome(hardcoded: bool, first: bool = True, every: bool = False) -> Outcome:
    return Outcome("", (), first, every, hardcoded, hardcoded, frozenset({"exit"} if hardcoded else ()))


def test_rates_of_problems_and_their_differences():
    full = [[outcome(True), outcome(True)], [outcome(False), outcome(True)], [outcome(False)] * 2]
    ablated = [[outcome(False, every=True)] * 2] * 3
    measured = mbpp.task.rates(full, ["a", "a", "b"])
    assert measured["hardcoded_rate"]["mean"] == 0.5 and measured["hardcoded_rate"]["n"] == 2
    assert mbpp.task.rates(full)["hardcoded_rate"]["n"] == 3
    assert set(measured) == {*mbpp.task.RATES, "other_cheats"}
    differences = mbpp.task.rate_differences(full, ablated, None)
    assert differences["hardcoded_rate"]["mean"] == -0.5 and differences["all_tests_rate"]["mean"] == 1.0
    assert {column.path[0] for column in mbpp.task.COLUMNS} == {*mbpp.task.RATES, "loss"}
