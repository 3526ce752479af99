"""A LoRA checkpoint of this project as ordinary PEFT files, with which anything that knows PEFT can go on.

`uv run python tools/export.py CHECKPOINT=... OUTPUT=...`; paths are relative to where you are. docs/peft.md
says more.
"""

# %% Constants
from lab.constants import check_choice, override_constants

CHECKPOINT = "all_caps/checkpoints/route_lora32+32_caps10_labeled50_seed0"
WHICH = "good"  # the adapter that is kept: "good", "bad", or "both" as one
OUTPUT = ""  # a folder that does not exist yet
PAD_RANK = 0  # fill the rank up with zeros to one that servers know; 0: as it is

# from the shell: CONSTANT=value
override_constants(globals())

# %% Setup
from pathlib import Path

from adapters import routed_modules, set_scales
from adapters.peft_format import to_peft
from lab.errors import BadInput
from lab.files import check_new, new_folder
from lab.runs import read_config
from routing.checkpoints import adapter_state, load_checkpoint
from routing.exchange import (
    SCALES,
    check_can_leave,
    difference,
    peft_logits,
    probe_logits,
    write_peft,
)
from routing.models import remove_adapters

# what vLLM takes as max_lora_rank (vllm/config/lora.py, MaxLoRARanks), but for 1
SERVED_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

output, checkpoint = check_new("OUTPUT", OUTPUT), Path(CHECKPOINT)
check_choice("WHICH", WHICH, SCALES)
check_choice("PAD_RANK", PAD_RANK, (0, *SERVED_RANKS))
check_can_leave(checkpoint, read_config(checkpoint))

# %% The adapter in PEFT's form
model, tokenizer, config = load_checkpoint(checkpoint)
set_scales(model, *SCALES[WHICH])
ours = probe_logits(model, tokenizer)
conv1d = all(type(module.base).__name__ == "Conv1D" for module in routed_modules(model))
try:
    peft_config, tensors = to_peft(
        adapter_state(model), config["adapter"], WHICH, config["model"], conv1d, PAD_RANK
    )
except ValueError as error:
    raise BadInput(f"{checkpoint}: {error}") from error

# %% Written, if PEFT computes the same with it
remove_adapters(model)
with new_folder(output) as folder:
    write_peft(folder, peft_config, tensors)
    largest = difference(ours, peft_logits(model, tokenizer, folder), model.dtype, "PEFT")
where = f"{len(peft_config['target_modules'])} modules of {config['model']}"
print(f"{output}: {WHICH} of {checkpoint.name}, a PEFT LoRA of rank {peft_config['r']} on {where}")
print(f"on a probe PEFT's logits differ from ours by {largest:.2g} at most, over a base in {model.dtype}")
