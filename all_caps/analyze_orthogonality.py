"""Are the good and the bad adapter orthogonal? A checkpoint's principal angles and update cosines.

Beside them stand those of random matrices. Then the squared cosine of the two adapters' outputs on held-out
stories, beside that of random adapters.
"""

# %% Constants
from pathlib import Path

from lab.constants import override_constants

CHECKPOINT = "checkpoints/route_lora32+32_caps10_labeled50_seed0"
STORIES = "embedded:stories"
SPLIT = "validation"  # or "test"
NUM_STORIES = 16  # for the cosine of the outputs, as they are and in capitals
MAX_SEQ_LENGTH = 64

CONSTANTS = override_constants(globals())  # from the shell: CONSTANT=value
HERE = Path(__file__).parent

# %% Weights: subspaces and effective updates
from all_caps.stories import load_stories, to_caps
from lab.files import write_json
from lab.plots import plot_overlaps
from lab.runs import refuse_other_results
from routing.batches import collate, make_example
from routing.merging import load_run
from routing.probes import output_orthogonality
from routing.subspaces import as_rows, format_overlaps, overlaps, random_weights

checkpoint = HERE / CHECKPOINT
output = HERE / "results" / checkpoint.name / "orthogonality.json"
refuse_other_results(output, CONSTANTS)
model, tokenizer, config = load_run(checkpoint)
readings = overlaps(model)
print(format_overlaps(readings))

# %% Outputs on held-out stories
stories = [story.text for story in load_stories(STORIES, limit=0).split(SPLIT)[:NUM_STORIES]]
outputs = {}
for kind, texts in {"normal": stories, "caps": [to_caps(story) for story in stories]}.items():
    examples = [make_example(tokenizer, "", text, MAX_SEQ_LENGTH) for text in texts]
    batch = collate(examples, model.device)
    outputs[kind] = output_orthogonality(model, batch)
    with random_weights(model):
        outputs[f"{kind}_random"] = output_orthogonality(model, batch)
    print(
        f"squared cosine of the adapters' outputs on {kind} text: {outputs[kind]:.4f}; "
        f"of random adapters of the same norms: {outputs[f'{kind}_random']:.4f}"
    )

write_json(output, {"modules": as_rows(readings), "outputs": outputs, "constants": CONSTANTS})
plot_overlaps(readings, HERE / "plots" / f"{checkpoint.name}_orthogonality.png", checkpoint.name)
