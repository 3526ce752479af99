"""Tiny real models and a tiny real tokenizer, made from random configs; nothing is downloaded."""

import contextlib
import gc
import io
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OlmoConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

from all_caps.stories import read_stories
from lab.lock import release_all
from routing.assets import DATA

torch.set_num_threads(1)  # tiny models gain nothing from threads, and the tests themselves run side by side
REPO = Path(__file__).parents[1]
os.environ["HF_HUB_OFFLINE"] = "1"
VOCABULARY = 400
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, sliding_window=16, query_pre_attn_scalar=8),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=1,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    ),
    "gptneox": lambda: GPTNeoXConfig(**SHAPE),
    "phi3": lambda: Phi3Config(**SHAPE),
    "falcon": lambda: FalconConfig(**{k: v for k, v in SHAPE.items() if k != "head_dim"}, alibi=False),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=16),
    "olmo": lambda: OlmoConfig(**SHAPE, clip_qkv=0.1),
    "olmo2": lambda: Olmo2Config(**SHAPE),
    # only the decoder of text gets adapters; with the vision tower beside it
    "gemma3_multimodal": lambda: Gemma3Config(
        text_config=CONFIGS["gemma3"](),
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
        ),
        mm_tokens_per_image=4,
        boi_token_index=2,
        eoi_token_index=3,
        image_token_index=4,
        tie_word_embeddings=True,
    ),
}


def tiny_model(family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0):
    """A random model of a real architecture, in eval mode."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        CONFIGS[family](), dtype=torch.float32, attn_implementation="sdpa"
    )
    return model.to(dtype).eval()


def randomize(model, seed: int = 1) -> None:
    """Give every trainable parameter random values.

    Fresh adapters contribute nothing and hide most mistakes.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(
                    0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                )


@pytest.fixture
def unreported(monkeypatch):
    """TRL tells its makers of every trainer that is made, but not in CI."""
    monkeypatch.setenv("CI", "1")


@pytest.fixture(scope="module")
def little_garbage():
    """Trainers collect garbage, which takes half a second with all that is imported by then."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer trained on the project's stories.

    Its pad token is its EOS token, as SmolLM2's.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    stories = read_stories(DATA / "stories_test.jsonl")
    raw.train_from_iterator((story.text for story in stories), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> Path:
    """A tiny Llama with its tokenizer, saved as a local model."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Done:
    """What a finished script left: as of subprocess.run."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Scripts:
    """Runs scripts of all_caps/, mbpp/ or template/ in a temporary copy of their folder.

    For example scripts("all_caps/experiment.py", "SEED=1"). They run in this process, as `python script.py`
    would run them, since importing torch takes longer than most of them; with process=True in one of their
    own. Outputs lie in the copy, root / "all_caps" (or the other's name).
    """

    root: Path
    constants: list[str]  # passed unless the call gives others

    def copy(self, folder: str) -> Path:
        if not (self.root / folder).exists():
            made = shutil.ignore_patterns("checkpoints", "results", "plots", "__pycache__")
            shutil.copytree(REPO / folder, self.root / folder, ignore=made)
        return self.root / folder

    def __call__(self, script: str, *arguments: str, check: bool = True, process: bool = False) -> Done:
        folder, name = script.split("/")
        given = {argument.split("=")[0] for argument in arguments}
        constants = [constant for constant in self.constants if constant.split("=")[0] not in given]
        run = run_in_process if process else run_here
        done = run(self.copy(folder), name, [*constants, *arguments])
        assert not check or done.returncode == 0, done.stderr
        return done


def run_in_process(folder: Path, script: str, arguments: list[str]) -> Done:
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_here(folder: Path, script: str, arguments: list[str]) -> Done:
    """The script's module from top to bottom, with its arguments, in its folder.

    Its uncaught errors are reported.
    """
    before, code = (sys.argv, sys.excepthook, Path.cwd(), list(sys.path)), 0
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            os.chdir(folder)
            sys.argv, sys.path[0] = [script, *arguments], str(folder)
            runpy.run_path(str(folder / script), run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            print(end.code or "", file=err)
        except Exception as error:
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            sys.argv, sys.excepthook = before[:2]
            os.chdir(before[2])
            # as the end of a process does
            release_all()
            sys.path[:] = before[3]
            # what a script found beside it is not the next one's
            for name, module in list(sys.modules.items()):
                if (getattr(module, "__file__", None) or "").startswith(f"{folder}{os.sep}"):
                    del sys.modules[name]
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture
def scripts(tmp_path, model_folder) -> Scripts:
    small = [
        "MAX_STEPS=3",
        "BATCH_SIZE=4",
        "LORA_RANK=2",
        "BAD_LORA_RANK=2",
        "NUM_EVAL_PROMPTS=2",
        "EVAL_NEW_TOKENS=3",
    ]
    return Scripts(tmp_path, [f"MODEL_NAME={model_folder}", *small])
