"""Draw one run's training curves and its evaluation again, from the files it wrote."""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

RUN = "route_lora32+32_caps10_labeled50_seed0"
SMOOTHING = 10  # steps

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Plots
from all_caps.task import COLUMNS
from lab.errors import BadInput
from lab.files import read_object
from lab.plots import plot_modes, plot_training

results = HERE / "results" / RUN
if not (results / "eval.json").exists():
    raise BadInput(f"{results}: no finished run here; RUN is the name of a folder in results/")
plot_training(results / "train.jsonl", HERE / "plots" / f"{RUN}_training.png", RUN, SMOOTHING)
modes = read_object(results / "eval.json", modes=dict)["modes"]
plot_modes(modes, COLUMNS, HERE / "plots" / f"{RUN}_eval.png", RUN)
