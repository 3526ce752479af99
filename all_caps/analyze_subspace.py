"""Where capitals stand in the residual stream of a checkpoint's models, and whether these still see them.

Prefixes in capitals elicit the behaviour, the same ones in normal letters do not. Per layer, at a prefix's
last token: how far the two are apart, what a linear probe tells of plots that it has not seen, and the angle
between a model's directions and the base's. And perception: what the model answers when it is asked.

A probe reads the prompt: that it finds capitals there does not say that the model goes on in capitals. Run
the cells top to bottom, or `uv run python analyze_subspace.py [CONSTANT=value ...]` in this folder.
"""

# %% Constants
from pathlib import Path

from lab.constants import check_choice, override_constants

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
RECOVERED = ""  # a checkpoint that had the behaviour brought back, on the same base; "": none
RECOVERED_MODE = "full"  # what of it is active: after experiment_recovery.py it is bad that brings it back
STORIES = "embedded:stories"
SPLIT = "test"
NUM_PROMPTS = 44
COMPONENTS = 3  # principal components whose share of the variance is kept
SHUFFLES = 5  # probes a layer whose labels are drawn at random
QUESTION = "{text}\n\nIs the text above written in capital letters? Answer yes or no.\nAnswer:"
ANSWERS = [" yes", " no"]  # it is, it is not
QUESTION_WORDS = 30  # of a story that is asked about
SEED = 0

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Setup
from itertools import combinations

import all_caps.perception
from all_caps.perception import check_question, perception, yes_log_odds
from all_caps.scoring import prefix_of
from all_caps.stories import load_stories, to_caps
from lab.curves import plot_curves
from lab.errors import BadInput
from lab.files import write_json
from lab.intervals import rate_interval
from lab.plots import plot_modes
from lab.runs import read_config, refuse_other_results
from lab.tables import Column, format_table
from routing.activations import angle, last_token_activations, read_layer
from routing.generation import MODES
from routing.merging import load_run

checkpoint, recovered = HERE / CHECKPOINT, HERE / RECOVERED
check_choice("RECOVERED_MODE", RECOVERED_MODE, MODES)
check_question(QUESTION, ANSWERS)
if RECOVERED and read_config(recovered)["model"] != read_config(checkpoint)["model"]:
    raise BadInput(
        f"RECOVERED={RECOVERED!r} has another base than CHECKPOINT: their directions do not compare"
    )
name = "subspace" + (f"_{recovered.name}_{RECOVERED_MODE}" if RECOVERED else "")
output = HERE / "results" / checkpoint.name / f"{name}.json"
refuse_other_results(output, CONSTANTS)
stories = load_stories(STORIES, limit=0).split(SPLIT)[:NUM_PROMPTS]
plots = [story.plot for story in stories]
prefixes = [prefix_of(story.text) for story in stories]

# %% Reading the models: each layer's activations, and the answers
readings, odds = {}, {}


def read(name, model, tokenizer, route) -> None:
    shown = last_token_activations(model, tokenizer, [to_caps(prefix) for prefix in prefixes], route)
    plain = last_token_activations(model, tokenizer, prefixes, route)
    pairs = zip(shown, plain, strict=True)
    readings[name] = [read_layer(*pair, plots, COMPONENTS, SHUFFLES, SEED) for pair in pairs]
    odds[name] = yes_log_odds(model, tokenizer, stories, QUESTION, ANSWERS, QUESTION_WORDS, route)


model, tokenizer, _ = load_run(checkpoint)
for mode in ("base", "full", "bad_ablated"):
    read(mode, model, tokenizer, MODES[mode])
if RECOVERED:
    # let go of the first model: two may not fit
    del model
    model, tokenizer, _ = load_run(recovered)
    read("recovered", model, tokenizer, MODES[RECOVERED_MODE])

# %% By layer, between models, and as a table
layers = {
    name: [
        {"separation": layer.separation, "variance": layer.variance, "shuffled": layer.shuffled,
         "probe": rate_interval(layer.told, plots)}
        for layer in own
    ]
    for name, own in readings.items()
}  # fmt: skip
angles = {
    direction: {
        f"{a} - {b}": [angle(direction, *pair) for pair in zip(readings[a], readings[b], strict=True)]
        for a, b in combinations(readings, 2)
    }
    for direction in ("means", "pca", "probe")
}
last = len(layers["base"]) - 1
PROBE = "accuracy of a linear probe"
shown_layers = dict.fromkeys((0, last // 2, last))
COLUMNS = [Column(("probe", str(k)), f"probe, layer {k}", PROBE, bounded=True) for k in shown_layers]
COLUMNS += all_caps.perception.COLUMNS
modes = {
    name: {
        "probe": {str(k): own[k]["probe"] for k in shown_layers},
        "perception": perception(odds[name], plots),
    }
    for name, own in layers.items()
}
print(f"\n{checkpoint.name}\n{format_table(modes, COLUMNS)}")
from_base = {name: angles["means"][f"base - {name}"] for name in readings if name != "base"}
print("\nby layer: degrees between a model's difference of means and the base's")
for k in range(0, last + 1, max(1, last // 6)):
    print(f"{k:>4}  " + "  ".join(f"{name} {values[k]:.0f}" for name, values in from_base.items()))

# %% JSON and figures
result = {"modes": modes, "layers": layers, "angles": angles, "odds": odds, "plots": plots}
write_json(output, {**result, "constants": CONSTANTS})


def line(values: list[float]) -> dict[int, dict]:
    """Layer -> a value without an interval."""
    return {k: dict.fromkeys(("mean", "low", "high"), value) for k, value in enumerate(values)}


panels = {
    PROBE: {mode: {k: layer["probe"] for k, layer in enumerate(own)} for mode, own in layers.items()},
    "distance of the two means, in spreads": {
        mode: line([layer["separation"] for layer in own]) for mode, own in layers.items()
    },
    "variance along the first component": {
        mode: line([layer["variance"][0] for layer in own]) for mode, own in layers.items()
    },
    "degrees between the differences of means, to base": {
        mode: line(from_base.get(mode, [0.0] * len(own))) for mode, own in layers.items()
    },
}
if SHUFFLES:
    panels["accuracy with labels at random"] = {
        mode: line([sum(layer["shuffled"]) / SHUFFLES for layer in own]) for mode, own in layers.items()
    }
bounded = {panel for panel in panels if panel.startswith(("accuracy", "variance"))}
plot_curves(panels, HERE / "plots" / f"{checkpoint.name}_{name}.png", "layer", bounded)
plot_modes(modes, COLUMNS, HERE / "plots" / f"{checkpoint.name}_{name}_modes.png", checkpoint.name)
