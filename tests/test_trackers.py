"""REPORT_TO, with the real trackers, offline: they get the numbers of train.jsonl and eval.json."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lab.constants import Constants
from lab.logs import JsonLines, read_log
from lab.runs import open_run, write_results
from lab.trackers import numbers_in

LINES = [{"loss": 2.5, "loss_by_kind": {"caps": 3.0, "normal": 2.0}, "bad_share": None, "note": "x"},
         {"loss": 1.5, "loss_by_kind": {"normal": 1.5}, "bad_share": 0.25}]  # fmt: skip
RESULTS = {"modes": {"full": {"caps_rate": {"mean": 0.5, "low": 0.25, "high": 0.75}}}, "values": [1.0, 0.0]}
SENT = {
    "train/loss": [(0, 2.5), (1, 1.5)],
    "train/loss_by_kind/caps": [(0, 3.0)],
    "train/loss_by_kind/normal": [(0, 2.0), (1, 1.5)],
    "train/bad_share": [(1, 0.25)],
    "start/train/loss": [(0, 9.0)],
    "eval/modes/full/caps_rate/mean": [0.5],
    "eval/modes/full/caps_rate/low": [0.25],
    "eval/modes/full/caps_rate/high": [0.75],
}

REPO = Path(__file__).parents[1]


def record(folder: Path, report_to: str):
    """A run in `folder` that writes LINES and RESULTS, and a line of a log that is not for trackers."""
    constants = Constants(RUN_NAME="mine", RESUME=False, SEED=3)
    run = open_run(str(folder / "script.py"), "", constants, {}, report_to)
    JsonLines(run.part("start").results / "train.jsonl", tracked=True).write(0, {"loss": 9.0})
    log = JsonLines(run.results / "train.jsonl", tracked=True)
    for step, line in enumerate(LINES):
        log.write(step, line)
    JsonLines(run.results / "rollouts.jsonl").write(0, {"reward": 1.0})
    write_results(run, RESULTS)
    return run


@pytest.fixture(autouse=True)
def nothing_is_tracked_afterwards(tmp_path):
    yield
    open_run(str(tmp_path / "script.py"), "", Constants(RUN_NAME="other", RESUME=False), {})


def in_event_files(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads from its event files: tag -> (step, number)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto).item()) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_reads_the_numbers_back(tmp_path):
    run = record(tmp_path, "tensorboard")
    expected = {tag: [point if isinstance(point, tuple) else (0, point) for point in points]
                for tag, points in SENT.items()}  # fmt: skip
    assert in_event_files(run.results / "tensorboard") == expected


def in_a_process(folder: Path, report_to: str, **environment: str) -> Path:
    """`record` in a process of its own, as a run is: at its end the tracker is closed. Returns the results."""
    code = "import pathlib, sys, test_trackers; test_trackers.record(pathlib.Path(sys.argv[1]), sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", code, folder, report_to],
        cwd=Path(__file__).parent, env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "warning: " not in done.stderr, done.stderr
    return folder / "results/mine"


@pytest.mark.slow
def test_trackio_keeps_the_numbers_in_its_local_database(tmp_path):
    pytest.importorskip("trackio")
    (tmp_path / "stories").mkdir()
    where = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    in_a_process(tmp_path / "stories", "trackio", **where)
    code = "import json; from trackio.sqlite_storage import SQLiteStorage as S; "
    code += "print(json.dumps(S.get_logs('stories', 'mine')))"
    made = subprocess.run([sys.executable, "-c", code], env={**os.environ, **where}, capture_output=True)
    rows = json.loads(made.stdout)
    assert {tag: [(row["step"], row[tag]) for row in rows if tag in row] for tag in SENT} == {
        # of a result without a step trackio goes on counting
        tag: [point if isinstance(point, tuple) else (2, point) for point in points]
        for tag, points in SENT.items()
    }


@pytest.mark.slow
def test_wandb_keeps_the_numbers_in_an_offline_run(tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    results = in_a_process(tmp_path, "wandb", WANDB_MODE="offline")
    (file,) = results.glob("wandb/offline-run-*/*.wandb")
    content, at, rows = file.read_bytes(), 7, []
    # after the file's head records of (checksum, length, kind), then a message of that length
    while at < len(content):
        _, length, _ = struct.unpack("<IHB", content[at : at + 7])
        items = Record.FromString(content[at + 7 : at + 7 + length]).history.item
        rows.append({(item.key or item.nested_key[0]): json.loads(item.value_json) for item in items})
        at += 7 + length
    for tag, points in SENT.items():
        step = tag.replace(tag.split("train/")[-1], "step")
        assert [(row[step], row[tag]) if step in row else row[tag] for row in rows if tag in row] == points


def test_an_experiment_reports_what_it_writes(scripts, tmp_path):
    scripts("all_caps/experiment.py", "RUN_NAME=mine", "REPORT_TO=tensorboard")
    results = tmp_path / "all_caps/results/mine"
    found = in_event_files(results / "tensorboard")
    lines = read_log(results / "train.jsonl")
    for tag, numbers in (("train/loss", [line["loss"] for line in lines]),
                         ("train/grad_norm/good", [line["grad_norm"]["good"] for line in lines])):  # fmt: skip
        assert [step for step, _ in found[tag]] == [0, 1, 2]
        assert [number for _, number in found[tag]] == pytest.approx(numbers)
    written = json.loads((results / "eval.json").read_text())
    evaluated = dict(numbers_in(written["modes"], "eval/modes"))
    assert {tag: points[0][1] for tag, points in found.items() if tag.startswith("eval/")} == pytest.approx(
        evaluated
    )
    assert (
        written["constants"]["REPORT_TO"] == "tensorboard" and "eval/modes/full/loss/caps/mean" in evaluated
    )
    # a tracker changes nothing of the run, so it may be another one when the run goes on
    scripts("all_caps/experiment.py", "RUN_NAME=mine", "RESUME=True")


def test_a_tracker_that_fails_is_told_of_once_and_the_run_goes_on(tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    (broken / "results/mine").mkdir(parents=True)
    (broken / "results/mine/tensorboard").write_text("a file where the folder should be")
    for folder, report_to in ((whole, ""), (broken, "tensorboard")):
        record(folder, report_to)
    assert capsys.readouterr().err.count("warning: tensorboard failed (") == 1
    for name in ("train.jsonl", "rollouts.jsonl", "eval.json"):
        texts = [(folder / "results/mine" / name).read_text() for folder in (whole, broken)]
        assert texts[0] == texts[1]


def test_an_unknown_or_missing_tracker_is_refused_before_the_model_loads(scripts, tmp_path, monkeypatch):
    # as if it were not installed
    monkeypatch.setitem(sys.modules, "trackio", None)
    for report_to, message in (("tensorbored", "one of 'trackio', 'wandb', 'tensorboard'"),
                               ("trackio", "`uv sync --extra trackers`")):  # fmt: skip
        done = scripts("all_caps/experiment.py", "MODEL_NAME=no/such", f"REPORT_TO={report_to}", check=False)
        assert done.returncode == 1 and message in done.stderr and "no/such" not in done.stderr
    assert not (tmp_path / "all_caps/results").exists()


def test_every_script_that_opens_a_run_has_report_to():
    found = 0
    for path in (path for path in REPO.glob("*/*.py") if path.parent.name != "tests"):
        text = path.read_text()
        if "\nrun = open_run(" in text:
            found += 1
            assert ", REPORT_TO)" in text and "write_results(run, " in text, path
    assert found >= 12
