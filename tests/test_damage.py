"""Damaged files, full and read-only disks, wrong clocks: one message that says what to do; nothing is lost.

What is cut off is never taken for whole, and no file runs code.
"""

import json
import os
import pickle
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from test_training import a_run, make_model, random_examples, train

from adapters import bad_params, good_params
from lab.constants import Constants
from lab.errors import BadInput
from lab.files import atomic_write, new_folder, read_object, remove_leftovers, write_json
from lab.grid import Store
from lab.lock import release_all
from lab.logs import JsonLines, read_log
from lab.results import ResultsCache
from lab.runs import open_run, read_config, saved_constants
from lab.sweeps import Job, is_complete
from routing import resuming
from routing.checkpoints import TRAINING_STATE, load_adapters, save_checkpoint
from routing.optimizer import RoutedOptimizer
from routing.stream import training_stream
from routing.training_state import read_training_state

RECORD = {"constants": {}, "values": {}, "units": {}}
CONFIG = {"model": "m", "adapter": {}, "constants": {}, "base_signature": "", "base_dtype": "float32",
          "weights_sha256": ""}  # fmt: skip
# what reads a file: its name, what it holds, and the reader
READERS = {
    "config.json": (CONFIG, lambda path: read_config(path.parent)),
    "started.json": ({"constants": {}}, lambda path: saved_constants(path.parent)),
    "compared.json": ({"one": {"key": "k", "modes": {}}}, ResultsCache),
    "cells.jsonl": (RECORD, Store),
}
DAMAGE = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: b"",
    "a comma too many": lambda text: text.replace(b"}", b",}", 1),
    "not UTF-8": lambda text: text.replace(b'"', b'"\xff', 1),
    "another kind": lambda text: b'[1, "constants"]\n',
    "null": lambda text: b"null\n",
    "a member of another kind": lambda text: text.replace(b"{}", b'"x"').replace(b'"k"', b"1"),
    "zeros": lambda text: bytes(len(text)),
    "a thousand brackets": lambda text: b"[" * 100_000,
}


@pytest.fixture(autouse=True)
def nothing_held():
    yield
    release_all()


@pytest.mark.parametrize("name", READERS)
def test_json_that_is_damaged_is_told_of_and_stays_as_it_is(tmp_path, name):
    content, read = READERS[name]
    path = tmp_path / name
    whole = json.dumps(content).encode() + b"\n"
    path.write_bytes(whole)
    read(path)
    for kind, damage in DAMAGE.items():
        path.write_bytes(damage(whole))
        # an empty store is one in which nothing is yet
        if (kind, name) != ("empty", "cells.jsonl"):
            with pytest.raises(BadInput, match=f"{path.name}.*(mend|train|put back)"):
                read(path)
        assert path.read_bytes() == damage(whole)


def test_every_member_of_a_config_is_needed(tmp_path):
    for missing in CONFIG:
        write_json(tmp_path / "config.json", {key: CONFIG[key] for key in CONFIG if key != missing})
        with pytest.raises(BadInput, match=missing):
            read_config(tmp_path)


def test_a_damaged_line_of_a_store_is_named_and_the_others_are_kept(tmp_path):
    path = tmp_path / "cells.jsonl"
    line = json.dumps(RECORD)
    path.write_text(f"{line}\n{line[:-9]}\n{line}\n")
    with pytest.raises(BadInput, match=r"line 2,.*delete the line"):
        Store(path)
    path.write_text(f"{line}\r\n{line}")
    assert len(Store(path).records) == 2


def test_a_log_goes_on_behind_a_line_that_a_kill_cut_and_nothing_else_is_dropped(tmp_path):
    path = tmp_path / "train.jsonl"
    whole = [json.dumps({"step": step, "loss": 1.5}) + "\n" for step in range(4)]
    for cut in range(len(whole[3])):
        path.write_text("".join(whole[:3]) + whole[3][:cut])
        # all but its end of line: that is whole
        assert len(read_log(path)) == 3 + (cut == len(whole[3]) - 1)
        JsonLines(path).write(3, {"loss": 2.0})
        assert [line["step"] for line in read_log(path)] == [0, 1, 2, 3] and read_log(path)[3]["loss"] == 2
    damaged = whole[0] + whole[1][:5] + "\n" + whole[2]
    path.write_text(damaged)
    with pytest.raises(BadInput, match=r"train\.jsonl, line 2,.*mend it"):
        JsonLines(path).write(3, {})
    assert path.read_text() == damaged


def test_a_damaged_result_is_made_again(tmp_path):
    (tmp_path / "script.py").write_text("SEED = 0\n# %%\n")
    job, result = Job("mine", tmp_path / "script.py", ()), tmp_path / "results/mine/eval.json"
    write_json(result, {"constants": {"SEED": 0, "SCRIPT": "script"}})
    assert is_complete(job)
    for damage in DAMAGE.values():
        result.write_bytes(damage(json.dumps({"constants": {}}).encode()))
        assert not is_complete(job)


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def evil_archive(path: Path, mark: Path) -> None:
    """What torch.save writes, with a pickle in it that runs code."""
    whole = path.with_suffix(".whole")
    path.rename(whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Evil(mark)) if name.endswith("data.pkl") else old.read(name))
    whole.unlink()


def test_a_training_state_is_whole_or_refused_and_runs_no_code(tmp_path):
    run, resumed, mark = a_run(tmp_path), a_run(tmp_path, RESUME=True), tmp_path / "mark"
    train(run, stop_after=5)
    state = run.checkpoint / TRAINING_STATE
    whole = state.read_bytes()
    model = make_model()
    before = [p.clone() for p in good_params(model) + bad_params(model)]

    def refused():
        with pytest.raises(BadInput, match=f"{TRAINING_STATE} is damaged.*RESUME=True trains"):
            next(
                iter(
                    training_stream(resumed, model, RoutedOptimizer(model, 1e-2), random_examples(), 4, 8, 2)
                )
            )
        assert not mark.exists()
        after = good_params(model) + bad_params(model)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    values = whole.index(read_training_state(state)["rng"].numpy().tobytes())
    flipped = bytearray(whole)
    flipped[values + 100] ^= 1
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], bytes(flipped), pickle.dumps(Evil(mark))):
        state.write_bytes(damaged)
        refused()
    state.write_bytes(whole)
    evil_archive(state, mark)
    refused()
    torch.save({"step": 1}, state)
    refused()
    state.unlink()
    # what the message says
    got, want = train(resumed), train(a_run(tmp_path / "whole"))
    for a, b in zip(good_params(got), good_params(want), strict=True):
        assert torch.equal(a, b)


def test_no_byte_of_a_checkpoint_is_taken_for_another(tmp_path):
    run, model = a_run(tmp_path), make_model()
    save_checkpoint(run, model, random_examples())
    weights = run.checkpoint / "adapter.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:-1], whole + b"\0", bytes([whole[0] ^ 1]) + whole[1:]):
        weights.write_bytes(damaged)
        with pytest.raises(BadInput, match="or damaged; put back"):
            load_adapters(run.checkpoint, model)
    # a clock that was set back: files of the future
    weights.write_bytes(whole)
    for path in run.checkpoint.iterdir():
        os.utime(path, (4e9, 4e9))
    load_adapters(run.checkpoint, model)


def test_a_trainers_checkpoint_counts_while_every_byte_is_there(tmp_path):
    (tmp_path / "optimizer.pt").write_bytes(b"optimizer")
    assert not resuming.is_complete(tmp_path)
    write_json(tmp_path / resuming.COMPLETE, resuming.file_hashes(tmp_path))
    assert resuming.is_complete(tmp_path)
    for damaged in (b"optimizes", b"optimize"):
        (tmp_path / "optimizer.pt").write_bytes(damaged)
        assert not resuming.is_complete(tmp_path)
    write_json(tmp_path / resuming.COMPLETE, {})
    assert not resuming.is_complete(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, and what mounts it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here: it takes root")

    mount("size=256k")
    yield folder, mount
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk to the last byte; returns the file to delete."""
    with (folder / "full").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            return folder / "full"


def test_on_a_full_disk_what_was_saved_stays_and_the_run_goes_on_afterwards(small_disk):
    folder, _ = small_disk
    run = a_run(folder)
    train(run, stop_after=4)
    # the log's last line is cut; then the state of step 6 does not fit
    full = fill(folder)
    files = sorted(folder.rglob("*"))
    with pytest.raises(BadInput, match=r"cannot be written \(No space left on device\); make room"):
        train(a_run(folder, RESUME=True))
    with pytest.raises(BadInput, match="No space left"):
        write_json(folder / "new.json", list(range(10_000)))
    with pytest.raises(BadInput, match="No space left"), new_folder(folder / "new") as made:
        (made / "file").write_bytes(bytes(9000))
    assert sorted(folder.rglob("*")) == files
    full.unlink()
    got, want = train(a_run(folder, RESUME=True)), train(a_run(folder.parent / "whole"))
    for a, b in zip(good_params(got), good_params(want), strict=True):
        assert torch.equal(a, b)
    assert [line["step"] for line in read_log(run.results / "train.jsonl")] == list(range(8))


def test_a_folder_that_is_read_only_is_told_of_before_anything_is_done(small_disk):
    folder, mount = small_disk
    write_json(folder / "results/old.json", {"a": 1})
    mount("remount,ro")
    constants = Constants({"ADAPTER_TYPE": "lora", "SEED": 0, "RUN_NAME": "mine", "RESUME": False})
    with pytest.raises(BadInput, match=r"results cannot be written \(Read-only file system\)"):
        open_run(str(folder / "experiment.py"), "route", constants, {})
    with pytest.raises(BadInput, match="Read-only file system"):
        write_json(folder / "results/old.json", {"a": 2})
    with pytest.raises(BadInput, match="Read-only file system"):
        JsonLines(folder / "train.jsonl").write(0, {})
    assert read_object(folder / "results/old.json") == {"a": 1}


def test_what_a_kill_left_goes_when_the_run_is_opened_again(tmp_path):
    keep = [tmp_path / name for name in (".hidden", "a-12345678.json", ".mine.lock", "train.jsonl")]
    for path in keep:
        path.touch()
    child = os.fork()
    if child == 0:
        with atomic_write(tmp_path / "before/eval.json"):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert len(list((tmp_path / "before").iterdir())) == 1
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(keep)
