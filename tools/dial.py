"""Turn the ablation by hand: a local page with a slider for each adapter of a checkpoint, or of two.

`uv run --group ui python tools/dial.py CHECKPOINT=... [CHECKPOINT_2=...]`; paths are relative to where you
are. It works without a network, and nobody but this machine sees the page, unless HOST says otherwise.
"""

# %% Constants
from lab.constants import override_constants

CHECKPOINT = "all_caps/checkpoints/route_lora32+32_caps10_labeled50_seed0"
CHECKPOINT_2 = ""  # another one beside it, of the same data set
TASK_FOLDER = ""  # of a copy of template/, whose task.py judges; "": the folder that has the checkpoints
SPLIT = "validation"  # where prompts and curves come from
NUM_PROMPTS = 12  # held-out stories, problems or lines
NUM_SAMPLES = 4  # completions of each mode
MAX_NEW_TOKENS = 40
TEMPERATURE = 0.7
SEED = 0  # of curves; that of completions stands on the page
CODE_TIMEOUT = 3.0  # seconds a program may run
SANDBOX = "auto"  # "none": where no sandbox works, run model-written programs without one
HOST = "127.0.0.1"  # "0.0.0.0": the whole network may use the page, and with it this machine
PORT = 7860

# from the shell: CONSTANT=value
override_constants(globals())

# %% Setup
import importlib.util
from pathlib import Path

from lab.errors import BadInput

if importlib.util.find_spec("gradio") is None:
    raise BadInput("the page needs gradio: run `uv run --group ui python tools/dial.py ...`")
from dial_page import load_dial, make_page, serve
from dial_tasks import Settings

settings = Settings(SPLIT, NUM_PROMPTS, MAX_NEW_TOKENS, TEMPERATURE, SEED, CODE_TIMEOUT, SANDBOX)
dials, messages = [], []
for folder in filter(None, (CHECKPOINT, CHECKPOINT_2)):
    try:
        dial = load_dial(Path(folder), settings, TASK_FOLDER)
        if dials and list(dial.task.prompts) != list(dials[0].task.prompts):
            raise BadInput(f"CHECKPOINT_2={folder!r} has other held-out prompts: start a second page for it")
        dials.append(dial)
    except BadInput as error:
        messages.append(str(error))
        print(f"error: {error}")

# %% The page, until Ctrl-C
print(f"http://{HOST}:{PORT}")
serve(make_page(dials, messages, NUM_SAMPLES), HOST, PORT)
