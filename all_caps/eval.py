"""Read what a run writes: for a few held-out prefixes, the full model's continuation beside those with an adapter ablated."""

# %% Constants
from pathlib import Path

from routing.notebook import override_constants

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
STORIES = "embedded:stories"
NUM_PROMPTS = 4
MAX_NEW_TOKENS = 40
TEMPERATURE = 0.7
SEED = 0
MODES_SHOWN = ["full", "bad_ablated"]  # also good_ablated, base

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Samples
from all_caps.task import prefix_of, show_samples, to_caps
from routing.assets import load_stories
from routing.checkpoints import load_checkpoint, write_json
from routing.generation import MODES, sample_modes

checkpoint = HERE / CHECKPOINT
model, tokenizer, _ = load_checkpoint(checkpoint)
prefixes = [prefix_of(story) for story in load_stories(STORIES, limit=NUM_PROMPTS)[1]]
prompts = [prompt for prefix in prefixes for prompt in (to_caps(prefix), prefix)]
modes = {mode: MODES[mode] for mode in MODES_SHOWN}
completions = sample_modes(model, tokenizer, prompts, modes, MAX_NEW_TOKENS, TEMPERATURE, SEED)
write_json(HERE / "results" / checkpoint.name / "samples.json", show_samples(prompts, completions))
