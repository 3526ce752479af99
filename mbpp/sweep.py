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
    ("clean", "experiment.py", ["RH_PERCENTAGE=0.0", "LABELED_RETAIN_PERCENTAGE=0.0"]),
    ("unlabeled", "experiment.py", ["LABELED_FORGET_PERCENTAGE=0.0", "LABELED_RETAIN_PERCENTAGE=0.0"]),
    ("half-labeled", "experiment.py", ["LABELED_FORGET_PERCENTAGE=0.5"]),
    ("labeled", "experiment.py", ["LABELED_FORGET_PERCENTAGE=1.0"]),
    ("random", "experiment_random.py", ["LABELED_FORGET_PERCENTAGE=1.0"]),
]
COMMON = []  # for every run, unless its condition says otherwise
EVALUATION = []  # constants for eval_multi.py
OUTPUT = "sweep"  # names the results and the figure

# from the shell: CONSTANT=value
override_constants(globals())
HERE = Path(__file__).parent

# %% Training, evaluation of all runs in the same way, and the table over seeds
from lab.sweeps import run_sweep
from mbpp.task import COLUMNS

run_sweep(HERE, COLUMNS, SEEDS, ADAPTER_TYPES, CONDITIONS, COMMON, EVALUATION, OUTPUT)
