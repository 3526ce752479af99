"""Run a grid of experiments, conditions x adapter types x seeds, then eval_multi.py on all of them.

The experiments run one process after another. Runs that are complete are skipped, so an interrupted sweep
goes on where it was; runs that failed are listed at the end.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

SEEDS = [0, 1, 2]
ADAPTER_TYPES = ["lora", "mlp"]
CONDITIONS = [  # (name, script, constants)
    ("no-caps", "experiment.py", ["CAPS_PERCENTAGE=0.0"]),
    ("labeled0", "experiment.py", ["LABELED_BAD_PERCENTAGE=0.0"]),
    ("labeled10", "experiment.py", ["LABELED_BAD_PERCENTAGE=0.1"]),
    ("labeled50", "experiment.py", ["LABELED_BAD_PERCENTAGE=0.5"]),
    ("labeled100", "experiment.py", ["LABELED_BAD_PERCENTAGE=1.0"]),
    ("dispersed5", "experiment_dispersed.py", ["LABELED_GOOD_PERCENTAGE=0.05"]),
    ("postablation50", "experiment_postablation.py", ["FINETUNE_NUM_EXAMPLES=50"]),
]
COMMON = [
    "CAPS_PERCENTAGE=0.1",
    "LABELED_BAD_PERCENTAGE=0.5",
]  # for every run, unless its condition says otherwise
EVALUATION = []  # constants for eval_multi.py
OUTPUT = "sweep"  # names the results and the figure

# from the shell: CONSTANT=value
override_constants(globals())
HERE = Path(__file__).parent

# %% Training, evaluation of all runs in the same way, and the table over seeds
from all_caps.task import COLUMNS
from lab.sweeps import run_sweep

run_sweep(HERE, COLUMNS, SEEDS, ADAPTER_TYPES, CONDITIONS, COMMON, EVALUATION, OUTPUT)
