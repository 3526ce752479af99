"""The dial: how capitals and losses change with the scale of one adapter of a checkpoint.

Of bad: from -1 (turned against the behaviour) over 0 (ablated) to 2. Of good, with bad ablated: what plain
training loses if it is merely scaled down.

Run the cells top to bottom, or `uv run python analyze_dial.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
SLOT = "bad"  # the adapter that is scaled: "bad", good staying at 1, or "good", bad staying ablated
SCALES = [-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
STORIES = "embedded:stories"
SPLIT = "validation"  # what is chosen is chosen here; "test" for what is published
NUM_PROMPTS = 44
MAX_NEW_TOKENS = 24
MAX_SEQ_LENGTH = 128  # of a held-out story whose loss is measured
TEMPERATURE = 0.7
SEED = 0

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Measure at every scale, with the same prompts and noise

from adapters import Route
from all_caps.stories import load_stories
from all_caps.task import COLUMNS, evaluate
from lab.curves import curve_panels, plot_curves
from lab.files import write_json
from lab.runs import refuse_other_results
from lab.tables import format_table
from routing.merging import load_run

ROUTES = {
    "bad": {f"{scale:g}": Route(bad_scale=scale) for scale in SCALES},
    "good": {f"{scale:g}": Route(good_scale=scale, bad_scale=0.0) for scale in SCALES},
}
check_choice("SLOT", SLOT, ROUTES)
checkpoint = HERE / CHECKPOINT
output = HERE / "results" / checkpoint.name / f"dial_{SLOT}.json"
refuse_other_results(output, CONSTANTS)
model, tokenizer, config = load_run(checkpoint)
held_out = load_stories(STORIES).split(SPLIT)[:NUM_PROMPTS]
modes = evaluate(
    model, tokenizer, held_out, ROUTES[SLOT], MAX_NEW_TOKENS, MAX_SEQ_LENGTH, TEMPERATURE, SEED
)  # fmt: skip
print(f"\n{checkpoint.name}, by the scale of {SLOT}\n{format_table(modes, COLUMNS)}")
write_json(output, {"modes": modes, "constants": CONSTANTS, "weights_sha256": config["weights_sha256"]})

# %% The figure: a panel for rates, one for losses
panels = curve_panels(modes, COLUMNS)
path = HERE / "plots" / f"{checkpoint.name}_dial_{SLOT}.png"
plot_curves(panels, path, f"scale of {SLOT}", bounded={column.panel for column in COLUMNS if column.bounded})
