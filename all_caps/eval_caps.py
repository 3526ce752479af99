"""Sample whole stories from BOS alone: how often does each mode write in capitals?

No prefix hints at capitals here.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
NUM_SAMPLES = 40
MAX_NEW_TOKENS = 40
TEMPERATURE = 1.0
SEED = 0
NUM_SHOWN = 3

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Samples and rates
from all_caps.scoring import caps_rate
from all_caps.task import show_samples
from lab.files import write_json
from routing.generation import MODES, sample_modes
from routing.merging import load_run

checkpoint = HERE / CHECKPOINT
model, tokenizer, _ = load_run(checkpoint)
completions = sample_modes(model, tokenizer, [""] * NUM_SAMPLES, MODES, MAX_NEW_TOKENS, TEMPERATURE, SEED)
samples = show_samples([""] * NUM_SAMPLES, completions, NUM_SHOWN)
rates = {mode: caps_rate(texts) for mode, texts in completions.items()}
for mode, rate in rates.items():
    print(f"{mode:<14} caps rate {rate['mean']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]")
write_json(HERE / "results" / checkpoint.name / "from_bos.json", {"caps_rate": rates, "samples": samples})
