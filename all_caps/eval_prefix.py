"""Complete prefixes of your own: each as it is and in capitals, in every ablation mode."""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
PREFIXES = [
    "Once upon a time, a little fox",
    "The rain had not stopped for three days",
    '"Wait for me," said',
]
NUM_GENERATIONS = 5  # per prefix
MAX_NEW_TOKENS = 30
TEMPERATURE = 0.7
SEED = 0

override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Completions and rates
from all_caps.scoring import caps_rate
from all_caps.stories import to_caps
from all_caps.task import show_samples
from lab.files import write_json
from routing.generation import MODES, sample_modes
from routing.merging import load_run

checkpoint = HERE / CHECKPOINT
model, tokenizer, _ = load_run(checkpoint)
written = {}
for kind, prefixes in {
    "normal_prefix": PREFIXES,
    "upper_prefix": [to_caps(prefix) for prefix in PREFIXES],
}.items():
    prompts = [prefix for prefix in prefixes for _ in range(NUM_GENERATIONS)]
    completions = sample_modes(model, tokenizer, prompts, MODES, MAX_NEW_TOKENS, TEMPERATURE, SEED)
    samples = show_samples(prompts, completions, every=NUM_GENERATIONS)
    rates = {mode: caps_rate(texts, NUM_GENERATIONS) for mode, texts in completions.items()}
    for mode, rate in rates.items():
        print(f"{kind:<14} {mode:<14} caps rate {rate['mean']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]")
    written[kind] = {"caps_rate": rates, "samples": samples}
write_json(HERE / "results" / checkpoint.name / "prefixes.json", written)
