"""Every `# %%` script as a notebook, in one kernel, on a tiny model; and what running a cell twice does."""

import ast
import json
import os
from pathlib import Path

import nbformat
import pytest
from conftest import REPO, Scripts, tiny_model
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from adapters import apply_dual_lora
from lab.errors import BadInput
from lab.live import LivePlot
from lab.runs import Run
from mbpp.execution import sandbox_level
from routing.batches import make_example
from routing.merging import merged_start

FEW_PROBLEMS = ("mbpp", "reward_hack_data")
FOLDERS = ("all_caps", "mbpp", "template", "reward_hack_data", "tools")
SCRIPTS = [
    f"{folder}/{path.stem}"
    for folder in FOLDERS
    for path in sorted((REPO / folder).glob("*.py"))
    if "\n# %%" in path.read_text()
]
# what a script's constant of that name gets, whichever script it is: "mine" is a finished run
SMALL = {
    "MAX_STEPS": 3, "BATCH_SIZE": 4, "LORA_RANK": 2, "BAD_LORA_RANK": 2, "FORGET_LORA_RANK": 2,
    "NUM_EVAL_PROMPTS": 2, "NUM_EVAL_PROBLEMS": 2, "EVAL_NEW_TOKENS": 3, "MAX_NEW_TOKENS": 3,
    "NUM_PROMPTS": 3,
    "NUM_SAMPLES": 2, "NUM_PROBLEMS": 2, "NUM_EXAMPLES": 3, "NUM_STORIES": 2, "CAPS_PERCENTAGE": 0.5,
    # "auto" measures which is faster, and comes to one or the other
    "DTYPE": "float32", "CHECKPOINT": "checkpoints/mine",
    "RUN_NAMES": ["mine"], "WORKERS": 0,
}  # fmt: skip
TRAINING = ["MODEL_NAME", "MAX_STEPS", "BATCH_SIZE", "LORA_RANK", "BAD_LORA_RANK", "NUM_EVAL_PROMPTS",
            "EVAL_NEW_TOKENS", "DTYPE"]  # fmt: skip
OWN = {
    "all_caps/analyze_dial": {"SCALES": [0.0, 1.0]},
    "all_caps/analyze_subspace": {"SHUFFLES": 1},
    "all_caps/evaluate": {"SPLIT": "validation", "NUM_DOCUMENTS": 12, "NUM_PROMPTS": 4},
    "all_caps/experiment_grpo": {"START_STEPS": 2, "START_BATCH_SIZE": 2, "PROMPTS_PER_STEP": 2,
                                 "NUM_GENERATIONS": 4, "NEW_TOKENS": 6},
    "all_caps/experiment_postablation": {"FINETUNE_NUM_EXAMPLES": 6},
    "all_caps/experiment_unlearn": {"CHECKPOINT": "checkpoints/plain", "UNLEARN_STEPS": 2},
    "all_caps/plot_finetune": {"RUNS": ["mine"]},
    "all_caps/plot_results": {"RUN": "mine"},
    "all_caps/sweep": {"CONDITIONS": [("b", "experiment.py", [])], "SEEDS": [0], "ADAPTER_TYPES": ["lora"]},
    "mbpp/experiment_grpo": {"START_STEPS": 2, "START_PROBLEMS": 8, "START_BATCH_SIZE": 2,
                             "PROMPTS_PER_STEP": 2, "NUM_GENERATIONS": 4, "NEW_TOKENS": 6},
    "mbpp/sweep": {"CONDITIONS": [("b", "experiment.py", [])], "SEEDS": [0], "ADAPTER_TYPES": ["lora"]},
    "tools/export": {"CHECKPOINT": "../all_caps/checkpoints/mine", "OUTPUT": "exported"},
    "tools/merge": {"CHECKPOINT": "../all_caps/checkpoints/mine", "OUTPUT": "merged"},
    "tools/smoke_test": {"PROBLEMS": ["embedded:basics"]},
}  # fmt: skip
LEFT_OUT = {
    "tools/import_peft": "reads what PEFT wrote, as in tests/test_peft.py",
    "tools/dial": "a page that is served until it is stopped: tests/test_dial.py",
}
# these write a folder or files that are there after the first time
ONCE = ("tools/export", "tools/import_peft", "tools/merge", "tools/notebooks")


def test_an_edited_notebook_is_not_written_over(tmp_path):
    scripts = Scripts(tmp_path / "copy", [])
    (tmp_path / "two").mkdir()
    for name in ("one", "other"):
        (tmp_path / f"two/{name}.py").write_text('"""Counts."""\n\n# %% Constants\nCOUNT = 1\n')
    folders = f"FOLDERS={[str(tmp_path / 'two')]}"
    scripts("tools/notebooks.py", folders)
    mine, other = (tmp_path / f"two/{name}.ipynb" for name in ("one", "other"))
    mine.write_text(mine.read_text().replace("COUNT = 1", "COUNT = 2"))
    # what a cell put out is no edit
    ran = nbformat.read(other, as_version=4)
    ran.cells[-1].outputs = [nbformat.v4.new_output("stream", text="ran")]
    nbformat.write(ran, other)
    (tmp_path / "two/other.py").write_text('"""Counts."""\n\n# %% Constants\nCOUNT = 3\n')
    done = scripts("tools/notebooks.py", folders)
    assert "1 notebooks" in done.stdout and "since they were edited (OVERWRITE=True" in done.stdout
    assert "COUNT = 2" in mine.read_text() and "COUNT = 3" in other.read_text()
    scripts("tools/notebooks.py", folders, "OVERWRITE=True")
    assert "COUNT = 1" in mine.read_text()


class Kernel:
    """One kernel for all notebooks; each begins in its own folder, and without the names of the last."""

    def __init__(self, folder: Path):
        self.client = NotebookClient(nbformat.v4.new_notebook(), timeout=600, kernel_name="python3")
        self.client.create_kernel_manager()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.client.start_new_kernel(cwd=str(folder), env=environment)
        self.client.start_new_kernel_client()

    def begin(self, folder: Path) -> None:
        self.run(f"%reset -f\nimport os; os.chdir({str(folder)!r})")

    def run(self, source: str) -> list[nbformat.NotebookNode]:
        """The outputs of a cell with this source, run after all others."""
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        return cell.outputs


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    yield kernel
    kernel.client._cleanup_kernel()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model_folder) -> Scripts:
    """Copies of the folders, with notebooks in them."""
    small = {"MODEL_NAME": model_folder, **SMALL}
    scripts = Scripts(tmp_path_factory.mktemp("notebooks"), [])
    copies = [str(scripts.copy(folder)) for folder in FOLDERS]
    rows = (REPO / "routing/embedded/basics_train.jsonl").read_text().splitlines()[:20]
    for folder in FEW_PROBLEMS:
        (scripts.root / folder / "few.jsonl").write_text("\n".join(rows) + "\n")
    scripts("tools/notebooks.py", f"FOLDERS={copies}")
    scripts.constants = [f"{name}={small[name]}" for name in TRAINING]
    return scripts


def constants_of(script: str, model_folder: Path) -> dict:
    folder, name = script.split("/")
    constants = {"MODEL_NAME": str(model_folder), **SMALL, "RUN_NAME": f"notebook_{name}"}
    if folder in FEW_PROBLEMS:
        constants["PROBLEMS"] = "few.jsonl"
    if folder in ("mbpp", "template"):
        # the tiny tokenizer makes many tokens
        constants["MAX_SEQ_LENGTH"] = 400
    if name == "sweep":
        given = ["MODEL_NAME", "MAX_STEPS", "BATCH_SIZE", "LORA_RANK", "EVAL_NEW_TOKENS", "MAX_SEQ_LENGTH"]
        given += ["NUM_EVAL_PROMPTS"] if folder == "all_caps" else ["NUM_EVAL_PROBLEMS", "PROBLEMS"]
        constants["COMMON"] = [
            f"{constant}={constants[constant]}" for constant in given if constant in constants
        ]
        evaluated = (
            ["MAX_NEW_TOKENS", "NUM_PROMPTS"]
            if folder == "all_caps"
            else ["MAX_NEW_TOKENS", "NUM_SAMPLES", "PROBLEMS"]
        )
        constants["EVALUATION"] = [f"{constant}={constants[constant]}" for constant in evaluated]
    return constants | OWN.get(script, {})


def patched(source: str, constants: dict) -> str:
    """The first cell with other values, as a user would type them; what is imported gets them afterwards."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        else:
            names = [alias.name for alias in getattr(node, "names", [])]
        given = [f"{name} = {constants[name]!r}" for name in names if name in constants]
        if given:
            kept = [] if isinstance(node, ast.Assign) else lines[node.lineno - 1 : node.end_lineno]
            lines[node.lineno - 1 : node.end_lineno] = kept + given
    return "\n".join(lines)


def execute(kernel: Kernel, file: Path, constants: dict, times: int) -> dict[str, list]:
    """Run each cell so many times, one after another: name of the cell -> its outputs of the last time."""
    kernel.begin(file.parent)
    outputs, title = {}, ""
    for cell in nbformat.read(file, as_version=4).cells:
        if cell.cell_type == "markdown":
            title = cell.source.removeprefix("## ")
            continue
        source = patched(cell.source, constants) if not outputs else cell.source
        for _ in range(times):
            outputs[title] = kernel.run(source)
    return outputs


def images(outputs: list) -> list[str]:
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


# what must hold in the kernel afterwards
NOTHING_LEFT = """
import signal
from adapters.dual_adapter import RoutedModule
handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
assert handlers == [signal.default_int_handler, signal.SIG_DFL], handlers
modules = globals()["model"].modules() if "model" in globals() else []
wrapped = [module for module in modules if isinstance(module, RoutedModule)]
assert not any(isinstance(getattr(module, "base", None), RoutedModule) for module in wrapped)
"""


@pytest.mark.slow
def test_cells_that_run_twice_leave_what_the_script_leaves(kernel, folders, model_folder):
    constants = constants_of("all_caps/experiment", model_folder) | {"RUN_NAME": "twice"}
    folder = folders.root / "all_caps"
    outputs = execute(kernel, folder / "experiment.ipynb", constants, times=2)
    kernel.run(NOTHING_LEFT)
    folders("all_caps/experiment.py", "RUN_NAME=once", "CAPS_PERCENTAGE=0.5")
    once, twice = (json.loads((folder / f"results/{run}/eval.json").read_text()) for run in ("once", "twice"))
    assert once["modes"] == twice["modes"]
    assert {name for name in once["constants"] if once["constants"][name] != twice["constants"][name]} == {
        "RUN_NAME"
    }
    logs = [(folder / f"results/{run}/train.jsonl").read_text().splitlines() for run in ("once", "twice")]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    shown = {title.split(":")[0]: len(images(found)) for title, found in outputs.items()}
    assert shown["Training"] == shown["Evaluation"] == 1
    # curves that grow: one figure, in the place of the one before, and none when all is drawn
    kernel.run("from lab.live import LivePlot\nlive = LivePlot(log.path, run.name, seconds=0)")
    outputs = kernel.run("live.update(); live.due = 0; lines = log.path.read_text(); live.update()")
    first = images(outputs)
    assert len(first) == 1
    kernel.run("log.path.write_text(lines[: lines.index('\\n') + 1]); live.due = 0; live.update()")
    assert len(images(outputs)) == 1 and images(outputs) != first
    kernel.run("log.path.write_text(lines); live.clear()")
    assert images(outputs) == []


def test_outside_a_notebook_no_curves_are_drawn(tmp_path):
    live = LivePlot(tmp_path / "there is no such log", "", seconds=0)
    live.update()
    assert live.shown is None


def test_a_start_is_merged_once(tmp_path, tokenizer):
    constants = {"MODEL_NAME": "tiny", "SEED": 0, "SAVE_EVERY": 9, "RESUME": False}
    run, model = Run("mine", tmp_path, constants), tiny_model()
    examples = [make_example(tokenizer, "", "The fox ran home.", 16, None, "normal", size=16)] * 2

    def start() -> None:
        lora = {"rank": 2, "alpha": 2}
        merged_start(run.part("start"), model, examples, 2, steps=1, learning_rate=0.1, lora=lora)

    start()
    apply_dual_lora(model, rank=2, bad_rank=2, alpha=2)
    with pytest.raises(BadInput, match="load it again"):
        start()


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs_as_a_notebook(kernel, folders, model_folder, script):
    """Each cell twice. A new script is here by itself, and gets SMALL; what else it needs is in OWN."""
    folder = script.split("/")[0]
    if folder in FEW_PROBLEMS and sandbox_level() == "none":
        pytest.skip("no sandbox works on this machine")
    if script in LEFT_OUT:
        pytest.skip(LEFT_OUT[script])

    def run(script: str, times: int = 1, **more) -> None:
        constants = constants_of(script, model_folder) | more
        execute(kernel, folders.root / f"{script}.ipynb", constants, times)

    # what scripts read
    first = f"{'all_caps' if folder == 'tools' else folder}/experiment"
    if first in SCRIPTS and not (folders.root / first).with_name("checkpoints").joinpath("mine").exists():
        run(first, RUN_NAME="mine")
    if script == "all_caps/experiment_unlearn":
        run("all_caps/experiment_arms", RUN_NAME="plain", ARM="none")
    if script.endswith("experiment_grpo"):
        with pytest.raises(CellExecutionError, match="given adapters before: load it again"):
            run(script, times=2)
        run(script, RUN_NAME="again")
    else:
        run(script, times=1 if script in ONCE else 2)
    kernel.run(NOTHING_LEFT)
