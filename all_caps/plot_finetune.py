"""Compare runs of experiment_finetune.py: caps rates and held-out losses, full and with bad ablated."""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

RUNS = []  # names of folders in results/; empty: every run whose name starts with "finetune"

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Comparison
from all_caps.task import COLUMNS
from lab.files import read_object
from lab.plots import plot_comparison
from lab.tables import format_table

names = RUNS or sorted(path.parent.name for path in (HERE / "results").glob("finetune*/eval.json"))
tables, missing = {}, []
for name in names:
    path = HERE / "results" / name / "eval.json"
    if path.exists():
        tables[name] = {"label": name, "modes": read_object(path, modes=dict)["modes"]}
        print(f"\n{name}\n{format_table(tables[name]['modes'], COLUMNS)}")
    else:
        missing.append(name)
plot_comparison(tables, missing, COLUMNS, HERE / "plots" / "finetune_plot.png")
