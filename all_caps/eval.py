"""Read what a run writes: a few held-out prefixes, continued in full and with an adapter ablated."""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
STORIES = "embedded:stories"
SPLIT = "validation"  # or "test"
NUM_PROMPTS = 4
MAX_NEW_TOKENS = 40
TEMPERATURE = 0.7
SEED = 0
MODES_SHOWN = ["full", "bad_ablated"]  # also good_ablated, base

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Samples
from all_caps.scoring import prefix_of
from all_caps.stories import load_stories, to_caps
from all_caps.task import show_samples
from lab.files import write_json
from routing.generation import MODES, sample_modes
from routing.merging import load_run

checkpoint = HERE / CHECKPOINT
model, tokenizer, _ = load_run(checkpoint)
prefixes = [prefix_of(story.text) for story in load_stories(STORIES, limit=0).split(SPLIT)[:NUM_PROMPTS]]
prompts = [prompt for prefix in prefixes for prompt in (to_caps(prefix), prefix)]
modes = {mode: MODES[mode] for mode in MODES_SHOWN}
completions = sample_modes(model, tokenizer, prompts, modes, MAX_NEW_TOKENS, TEMPERATURE, SEED)
write_json(HERE / "results" / checkpoint.name / "samples.json", show_samples(prompts, completions))
