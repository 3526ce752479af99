"""The base with the chosen adapters merged into its weights: a plain Transformers folder with a model card.

`uv run python tools/merge.py CHECKPOINT=... OUTPUT=...`; paths are relative to where you are. docs/peft.md
says more.
"""

# %% Constants
from lab.constants import check_choice, override_constants

CHECKPOINT = "all_caps/checkpoints/route_lora32+32_caps10_labeled50_seed0"
WHICH = "good"  # the adapter that is kept: "good", "bad" or "both"
GOOD_SCALE = 1.0  # how strongly, where WHICH keeps it
BAD_SCALE = 1.0
OUTPUT = ""  # a folder that does not exist yet

# from the shell: CONSTANT=value
override_constants(globals())

# %% Setup
from pathlib import Path

from adapters import set_scales
from lab.files import check_new, new_folder, write_text
from lab.model_card import model_card, results_of
from lab.runs import read_config
from routing.assets import EMBEDDED_MODEL
from routing.exchange import SCALES, check_can_leave, difference, probe_logits
from routing.merging import load_run, merge_adapters

output, checkpoint = check_new("OUTPUT", OUTPUT), Path(CHECKPOINT)
check_choice("WHICH", WHICH, SCALES)
scales = (GOOD_SCALE * SCALES[WHICH][0], BAD_SCALE * SCALES[WHICH][1])
config = read_config(checkpoint)
check_can_leave(checkpoint, config, merging=True)
modes = results_of(checkpoint, config["constants"])

# %% Merging: W + scale gain B A, summed in fp64 and rounded to the base's dtype
model, tokenizer, _ = load_run(checkpoint)
set_scales(model, *scales)
ours = probe_logits(model, tokenizer)
merge_adapters(model)
largest = difference(ours, probe_logits(model, tokenizer), model.dtype, "the merged model")
dtype, size = str(model.dtype).removeprefix("torch."), float(ours.abs().max())
written = (
    f"Written in {dtype}, to which the merged weights are rounded: on a probe their logits, of up to "
    f"{size:.3g}, differ by {largest:.2g} at most from those of the base with its adapters."
)

# %% The folder
with new_folder(output) as folder:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    licence = "SmolLM2-135M-Instruct is Apache-2.0" if config["model"] == EMBEDDED_MODEL else ""
    name = checkpoint.resolve().name
    write_text(folder / "README.md", model_card(name, config, scales, modes, written, licence))
print(f"{output}: {config['model']} with good at {scales[0]:g} and bad at {scales[1]:g}. {written}")
