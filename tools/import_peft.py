"""Two PEFT LoRAs of one base as a checkpoint of this project: one becomes the good adapter, one the bad.

`uv run python tools/import_peft.py GOOD=... BAD=... OUTPUT=...`; paths are relative to where you are.
docs/peft.md says what can be imported.
"""

# %% Constants
from lab.constants import override_constants
from lab.defaults import ATTENTION, DTYPE

GOOD = ""  # folders that PEFT's save_pretrained wrote
BAD = ""
OUTPUT = ""  # a folder that does not exist yet
MODEL_NAME = ""  # empty: the base that both adapters name
SEED = 0  # of the matrices that an adapter does not fill; what they feed into is zero

# from the shell: CONSTANT=value
CONSTANTS = override_constants(globals())

# %% Setup
from pathlib import Path

import torch

from adapters import coverage, set_scales
from lab.errors import BadInput
from lab.files import check_new, new_folder
from routing.checkpoints import write_checkpoint
from routing.exchange import (
    SCALES,
    attach_branches,
    common_base,
    difference,
    peft_logits,
    probe_logits,
    read_peft,
)
from routing.models import load_model, remove_adapters

output = check_new("OUTPUT", OUTPUT)
folders = {"good": Path(GOOD), "bad": Path(BAD)}
if not GOOD or not BAD:
    raise BadInput("give two folders that PEFT's save_pretrained wrote: GOOD=... BAD=...")
read = {slot: read_peft(f"{slot.upper()}={folder}", folder) for slot, folder in folders.items()}
base = MODEL_NAME or common_base({slot.upper(): config for slot, (config, _) in read.items()})

# %% Both in the base
torch.manual_seed(SEED)
model, tokenizer = load_model(base, DTYPE, ATTENTION)
attach_branches(model, {slot: branches for slot, (_, branches) in read.items()})
ours = {}
for slot in folders:
    set_scales(model, *SCALES[slot])
    ours[slot] = probe_logits(model, tokenizer)

# %% Written, if each alone computes what PEFT does
largest = 0.0
with new_folder(output) as folder:
    write_checkpoint(folder, model, {**CONSTANTS, "MODEL_NAME": base, "SCRIPT": Path(__file__).stem}, None)
    covered = coverage(model)
    remove_adapters(model)
    for slot, source in folders.items():
        found = difference(
            ours[slot], peft_logits(model, tokenizer, source), model.dtype, f"PEFT with {slot}"
        )
        largest = max(largest, found)
print(f"{output}: {covered}")
print(
    f"on a probe PEFT's logits differ from each one's by {largest:.2g} at most, over a base in {model.dtype}"
)
