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

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Training
import subprocess
import sys

from all_caps.task import COLUMNS
from lab.files import write_json, write_text
from lab.plots import plot_comparison
from lab.results import ResultsCache
from lab.sweeps import Job, merge_constants, run_jobs
from lab.tables import seed_table

jobs = {
    (adapter_type, name, seed): Job(
        f"{OUTPUT}_{name}_{adapter_type}_seed{seed}",
        HERE / script,
        merge_constants(COMMON, constants, [f"ADAPTER_TYPE={adapter_type}", f"SEED={seed}"]),
    )
    for seed in SEEDS
    for adapter_type in ADAPTER_TYPES
    for name, script, constants in CONDITIONS
}
failed = run_jobs(list(jobs.values()), HERE / "results" / f"{OUTPUT}_logs")

# %% Evaluation of all runs in the same way
names = [job.run for job in jobs.values() if job not in failed]
if not names:
    sys.exit(f"every run failed; see {HERE / 'results' / OUTPUT}_logs")
evaluation = [f"RUN_NAMES={names}", f"OUTPUT={OUTPUT}", *EVALUATION]
subprocess.run([sys.executable, "eval_multi.py", *evaluation], cwd=HERE, check=True)

# %% The table: mean and range over seeds (of one seed: its 95% interval)
stored = ResultsCache(HERE / "results" / f"{OUTPUT}_results.json").entries
groups = {
    f"{name}, {adapter_type}": [
        stored[job.run]
        for (kind, other, _), job in jobs.items()
        if (kind, other) == (adapter_type, name) and job.run in stored
    ]
    for adapter_type in ADAPTER_TYPES
    for name, _, _ in CONDITIONS
}
table, summary = seed_table({label: entries for label, entries in groups.items() if entries}, COLUMNS)
print(f"\n{table}")
write_json(HERE / "results" / f"{OUTPUT}_summary.json", summary)
write_text(HERE / "results" / f"{OUTPUT}_table.md", table + "\n")
compared = {label: {"label": label, "modes": modes} for label, modes in summary.items()}
spread = "mean and range over seeds" if len(SEEDS) > 1 else "95% interval"
figure = HERE / "plots" / f"{OUTPUT}_seeds_plot.png"
plot_comparison(compared, [job.run for job in failed], COLUMNS, figure, spread)
if failed:
    sys.exit(f"failed: {', '.join(job.run for job in failed)}; run the sweep again to try only these")
