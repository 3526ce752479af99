"""PEFT's files, out and in, and merging: PEFT and plain transformers compute what this library does."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import Scripts, randomize, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters import ablated, apply_dual_lora, apply_mlp_adapter, set_scales, train_last_layers
from adapters.peft_format import from_peft, to_dual
from lab.errors import BadInput
from lab.files import new_folder
from lab.runs import read_config
from routing.checkpoints import load_checkpoint, write_checkpoint
from routing.exchange import SCALES, difference
from routing.merging import merge_adapters
from routing.models import load_model

FAMILIES = ["llama", "gpt2", "phi3"]
IDS = torch.randint(5, 400, (2, 24), generator=torch.Generator().manual_seed(5))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bases(tmp_path_factory, tokenizer):
    """family -> a folder with the tiny model and its tokenizer."""
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp(family)
        tiny_model(family).save_pretrained(folders[family])
        tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture
def tool(tmp_path):
    """Runs a script of tools/ with these constants: tool("export", "WHICH=bad")."""
    scripts = Scripts(tmp_path / "copy", [])
    return lambda name, *constants, **options: scripts(f"tools/{name}.py", *constants, **options)


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def save(folder, base, attach, dtype="float32", **constants):
    """A checkpoint of random adapters that `attach` puts into `base`: its folder."""
    model, _ = load_model(str(base), dtype, device=CPU)
    attach(model)
    randomize(model)
    write_checkpoint(folder, model, {"MODEL_NAME": str(base), "DATA": "a/b.jsonl", **constants}, "0123")
    return folder


def two_ranks(model):
    # alpha / rank differs, and is no power of two
    apply_dual_lora(model, rank=3, bad_rank=5, alpha=7)


def assert_same(found, wanted, tolerance=1e-5):
    assert (found - wanted).abs().max() <= tolerance * max(1, wanted.abs().max())


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_and_transformers_compute_what_we_do(family, bases, tool, tmp_path):
    checkpoint = save(tmp_path / "run", bases[family], two_ranks)
    model, _, _ = load_checkpoint(checkpoint, CPU)
    apart = []
    for which, rank in (("good", 3), ("bad", 5), ("both", 8)):
        set_scales(model, *SCALES[which])
        wanted = logits(model)
        apart.append(wanted)
        for pad, constants in ((rank, []), (16, ["PAD_RANK=16"])):
            output = tmp_path / f"{which}{pad}"
            done = tool(
                "export", f"CHECKPOINT={checkpoint}", f"WHICH={which}", f"OUTPUT={output}", *constants
            )
            assert f"rank {pad} on" in done.stdout
            assert files(output) == ["adapter_config.json", "adapter_model.safetensors"]
            config = json.loads((output / "adapter_config.json").read_text())
            assert config["r"] == config["lora_alpha"] == pad
            assert not (config["rank_pattern"] or config["alpha_pattern"] or config["use_rslora"])
            under_peft = PeftModel.from_pretrained(plain(bases[family]), output).eval()
            assert set(under_peft.targeted_module_names) == set(config["target_modules"])
            assert_same(logits(under_peft), wanted)
        assert_same(logits(under_peft.merge_and_unload()), wanted)
        output = tmp_path / f"merged_{which}"
        tool("merge", f"CHECKPOINT={checkpoint}", f"WHICH={which}", f"OUTPUT={output}")
        assert_same(logits(plain(output)), wanted)
        assert AutoTokenizer.from_pretrained(output).eos_token == "</s>"
    # adapters that did nothing would pass all of the above
    pairs = [
        (apart[0], apart[1]),
        (apart[0], apart[2]),
        (apart[1], apart[2]),
        (apart[0], logits(plain(bases[family]))),
    ]
    assert all((a - b).abs().max() > 0.1 for a, b in pairs)


def test_merging_at_other_scales(bases, tool, tmp_path):
    checkpoint, output = save(tmp_path / "run", bases["gpt2"], two_ranks), tmp_path / "merged"
    tool(
        "merge",
        f"CHECKPOINT={checkpoint}",
        "WHICH=both",
        "GOOD_SCALE=0.5",
        "BAD_SCALE=-0.25",
        f"OUTPUT={output}",
    )
    model, _, _ = load_checkpoint(checkpoint, CPU)
    set_scales(model, 0.5, -0.25)
    assert_same(logits(plain(output)), logits(model))
    assert (
        "good adapter at scale 0.5 and the bad adapter at scale -0.25" in (output / "README.md").read_text()
    )


def test_trained_layers_are_merged_and_not_exported(bases, tool, tmp_path):
    def attach(model):
        apply_dual_lora(model, rank=0, bad_rank=2, alpha=3)
        train_last_layers(model, 1)

    checkpoint, output = save(tmp_path / "run", bases["llama"], attach), tmp_path / "output"
    arguments = (f"CHECKPOINT={checkpoint}", f"OUTPUT={output}")
    done = tool("export", *arguments, check=False)
    assert done.returncode == 1 and "tools/merge.py" in done.stderr and not output.exists()
    model, _, _ = load_checkpoint(checkpoint, CPU)
    for which in SCALES:
        output = tmp_path / which
        tool("merge", f"CHECKPOINT={checkpoint}", f"WHICH={which}", f"OUTPUT={output}")
        set_scales(model, *SCALES[which])
        assert_same(logits(plain(output)), logits(model))


def test_what_stands_on_a_merged_start_is_merged_and_not_exported(bases, tool, tmp_path):
    save(tmp_path / "run/start", bases["llama"], two_ranks)
    model, _, _ = load_checkpoint(tmp_path / "run/start", CPU)
    merge_adapters(model)
    two_ranks(model)
    randomize(model, seed=2)
    constants = {"MODEL_NAME": str(bases["llama"]), "DATA": "a/b.jsonl"}
    write_checkpoint(tmp_path / "run", model, constants, "0123", start="start")
    given = (f"CHECKPOINT={tmp_path / 'run'}", f"OUTPUT={tmp_path / 'output'}")
    done = tool("export", *given, check=False)
    assert done.returncode == 1 and "merge all of it with tools/merge.py" in done.stderr
    with pytest.raises(BadInput, match=r"load it with routing\.merging\.load_run"):
        load_checkpoint(tmp_path / "run", CPU)
    tool("merge", *given)
    set_scales(model, *SCALES["good"])
    assert_same(logits(plain(tmp_path / "output")), logits(model))


def test_a_bf16_base_rounds_and_the_output_says_how_much(bases, tool, tmp_path):
    checkpoint, output = save(tmp_path / "run", bases["llama"], two_ranks, "bfloat16"), tmp_path / "merged"
    done = tool("merge", f"CHECKPOINT={checkpoint}", f"OUTPUT={output}")
    assert "Written in bfloat16" in done.stdout and "differ" in done.stdout
    assert (
        plain(output).dtype == torch.float32
        and AutoModelForCausalLM.from_pretrained(output).dtype == torch.bfloat16
    )
    done = tool("export", f"CHECKPOINT={checkpoint}", f"OUTPUT={tmp_path / 'peft'}")
    assert "over a base in torch.bfloat16" in done.stdout


def test_the_card_says_what_is_in_the_folder(bases, tool, tmp_path):
    rate = {"mean": 0.25, "low": 0.125, "high": 0.5, "n": 9}
    modes = {"full": {"loss": {"caps": rate}}, "forget_ablated": {"loss": {"caps": rate}, "cheats": 0.0}}
    constants = {"MODEL_NAME": str(bases["llama"]), "DATA": "a/b.jsonl", "SEED": 7}
    checkpoint = save(tmp_path / "checkpoints/mine", bases["llama"], two_ranks, SEED=7)
    result = tmp_path / "results/mine/eval.json"
    result.parent.mkdir(parents=True)
    arguments = (f"CHECKPOINT={checkpoint}", f"OUTPUT={tmp_path / 'merged'}")
    # what another run left there is not this one's
    result.write_text(json.dumps({"modes": modes, "constants": {**constants, "SEED": 8}}))
    done = tool("merge", *arguments, check=False)
    assert done.returncode == 1 and "SEED was 8, is 7" in done.stderr and not (tmp_path / "merged").exists()
    result.write_text(json.dumps({"modes": modes, "constants": constants}))
    tool("merge", *arguments)
    card = (tmp_path / "merged/README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "# mine" in card
    texts = (
        "| | full | **forget_ablated** (this) |",
        "| loss caps | 0.250 [0.125, 0.500] | 0.250 [0.125, 0.500] |",
        "Ablated, and not in here: bad.",
        "DATA `a/b.jsonl`",
        "`0123`",
        '"SEED": 7',
        "under its licence",
    )
    for text in texts:
        assert text in card, text


REFUSED = {
    "an output that is there": (["OUTPUT={there}"], "nothing is overwritten"),
    "no output": ([], "OUTPUT='': give a folder"),
    "an unknown adapter": (["WHICH=forget", "OUTPUT={new}"], "WHICH='forget': choose one of good, bad, both"),
    "no checkpoint": (["CHECKPOINT={there}", "OUTPUT={new}"], "no checkpoint here"),
    "MLP adapters": (["CHECKPOINT={mlp}", "OUTPUT={new}"], "no weight of the base could hold it"),
}
EXPORT_REFUSED = {
    "a rank no server has": (["PAD_RANK=24", "OUTPUT={new}"], "PAD_RANK=24: choose one of"),
    "a padded rank that is too small": (
        ["WHICH=both", "PAD_RANK=8", "OUTPUT={new}"],
        "rank of 9 does not fit",
    ),
    "an adapter of rank 0": (["CHECKPOINT={none}", "WHICH=bad", "OUTPUT={new}"], 'no LoRA "bad"'),
}


def test_what_cannot_be_exported_or_merged_is_refused(bases, tool, tmp_path):
    """With one message, and nothing is written."""
    save(tmp_path / "lora", bases["llama"], lambda model: apply_dual_lora(model, 4, 5, alpha=1))
    save(tmp_path / "none", bases["llama"], lambda model: apply_dual_lora(model, 4, 0, alpha=1))
    save(tmp_path / "mlp", bases["llama"], lambda model: apply_mlp_adapter(model, 4, 4))
    paths = {name: tmp_path / name for name in ("there", "new", "none", "mlp")}
    paths["there"].mkdir()
    before = files(tmp_path)
    cases = [(name, *case) for name in ("export", "merge") for case in REFUSED.values()]
    for name, given, message in [*cases, *(("export", *case) for case in EXPORT_REFUSED.values())]:
        constants = [constant.format(**paths) for constant in given]
        if not any(constant.startswith("CHECKPOINT") for constant in constants):
            constants.append(f"CHECKPOINT={tmp_path / 'lora'}")
        done = tool(name, *constants, check=False)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
        assert done.returncode == 1 and len(errors) == 1 and message in errors[0], (name, done.stderr)
        assert "Traceback" not in done.stderr
        assert [path for path in files(tmp_path) if not path.startswith("copy")] == before


def test_logits_that_differ_by_more_than_rounding_are_an_error():
    """In bf16 rounding may do much, but not all."""
    ours = torch.linspace(-2, 2, 12).view(3, 4)
    assert 0 < difference(ours, ours + 1e-4, torch.float32, "it") < 2e-4
    assert difference(ours, ours + 0.1, torch.bfloat16, "it") > 0.09
    for theirs, dtype in (
        (ours + 1e-2, torch.float32),
        (ours / 0, torch.float32),
        (ours.T.reshape(3, 4), torch.bfloat16),
        (ours / 0, torch.bfloat16),
    ):
        with pytest.raises(BadInput, match="it computes other logits"):
            difference(ours, theirs, dtype, "it")


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "new") as folder:
        (folder / "half").write_text("x")
        assert not (tmp_path / "new").exists()
        raise KeyError
    assert files(tmp_path) == []
    with new_folder(tmp_path / "a/new") as folder:
        (folder / "whole").write_text("x")
        (folder / "whole").chmod(0o600)
    assert files(tmp_path) == ["a", "a/new", "a/new/whole"]
    # a server may run as somebody else
    assert (tmp_path / "a/new/whole").stat().st_mode & 0o777 == 0o644


def peft_adapter(folder, base, seed, **config):
    """A PEFT LoRA with random weights, saved as PEFT saves it."""
    model = get_peft_model(plain(base), LoraConfig(task_type="CAUSAL_LM", **config))
    randomize(model, seed)
    # otherwise it adds the weights of an adapted lm_head
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


# Good and bad differ in rank, alpha and modules; in ranks and alphas within an adapter.
IMPORTED = {
    "llama": (
        {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 2}},
        {"r": 3, "target_modules": ["q_proj", "v_proj", "up_proj"], "use_rslora": True,
         "layers_to_transform": [1, 3], "alpha_pattern": {"layers.3.mlp.up_proj": 11, "v_proj": 5}},
    ),
    "gpt2": (
        {"r": 2, "lora_alpha": 5, "target_modules": ["c_attn"], "fan_in_fan_out": True},
        {"r": 5, "target_modules": ["c_fc", "mlp.c_proj"], "fan_in_fan_out": True, "lora_dropout": 0.1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", IMPORTED)
def test_two_peft_adapters_become_a_checkpoint(family, bases, tool, tmp_path):
    base, slots = bases[family], ("good", "bad")
    folders = [
        peft_adapter(tmp_path / slot, base, seed, **IMPORTED[family][seed]) for seed, slot in enumerate(slots)
    ]
    done = tool(
        "import_peft",
        f"GOOD={folders[0]}",
        f"BAD={folders[1]}",
        f"OUTPUT={tmp_path / 'run'}",
        "DTYPE=float32",
    )
    assert "LoRA on" in done.stdout
    model, _, config = load_checkpoint(tmp_path / "run", CPU)
    assert config["model"] == str(base) and config["constants"]["SCRIPT"] == "import_peft"
    under_peft = PeftModel.from_pretrained(plain(base), folders[0], "good").eval()
    under_peft.load_adapter(folders[1], "bad")
    for which, names in (("good", "good"), ("bad", "bad"), ("both", ["good", "bad"])):
        under_peft.base_model.set_adapter(names)
        set_scales(model, *SCALES[which])
        assert_same(logits(model), logits(under_peft))
    with ablated(model, "both"):
        assert torch.equal(logits(model), logits(plain(base)))
        assert (logits(under_peft) - logits(model)).abs().max() > 0.1
    # what an adapter does not fill can still learn: its A is not zero
    for name, parameter in model.named_parameters():
        assert ".lora_A_" not in name or parameter.any(-1).all()
    # and out again
    tool("export", f"CHECKPOINT={tmp_path / 'run'}", "WHICH=both", f"OUTPUT={tmp_path / 'again'}")
    assert_same(logits(PeftModel.from_pretrained(plain(base), tmp_path / "again")), logits(under_peft))


LORA = {"peft_type": "LORA", "lora_alpha": 4, "r": 2}
NO_LORA = {
    "another type": ({"peft_type": "IA3"}, "type IA3"),
    "biases": ({"bias": "lora_only"}, "trained biases"),
    "biases of LoRA": ({"lora_bias": True}, "trained biases"),
    "DoRA": ({"use_dora": True}, "DoRA"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "trained whole"),
    "embeddings": ({"trainable_token_indices": [3]}, "embeddings"),
    "a changed base": ({"init_lora_weights": "pissa"}, "may change the base's weights"),
    "something new": ({"use_what_comes_next": {"a": 1}}, "not known here"),
}


@pytest.mark.parametrize("case", NO_LORA)
def test_what_is_no_plain_lora_is_not_read(case):
    fields, message = NO_LORA[case]
    tensors = {f"base_model.model.h.0.q.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
    assert list(from_peft(LORA, tensors)) == ["h.0.q"]
    with pytest.raises(ValueError, match=message):
        from_peft({**LORA, **fields}, tensors)


def test_a_tensor_that_is_no_loras_is_not_read():
    """Also where the config is silent about it."""
    tensors = {f"base_model.model.h.0.q.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
    for name in ("q.lora_magnitude_vector", "q.lora_embedding_A", "q.lora_A.bias", "q.base_layer.weight"):
        with pytest.raises(ValueError, match="is no matrix of"):
            from_peft(LORA, {**tensors, f"base_model.model.h.0.{name}": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="no pairs"):
        from_peft(LORA, dict(list(tensors.items())[:1]))


def test_an_adapter_of_another_size_does_not_fit():
    fresh = {"h.0.q.lora_A_bad": torch.zeros(2, 3), "h.0.q.lora_B_bad": torch.zeros(4, 2)}
    fits = to_dual(fresh, {"bad": {"h.0.q": (torch.ones(1, 3), torch.ones(4, 1))}})
    assert fits["h.0.q.lora_B_bad"].tolist() == [[1, 0]] * 4 and not fresh["h.0.q.lora_B_bad"].any()
    with pytest.raises(ValueError, match="from 2 to 4 values, the base's has 3 and 4"):
        to_dual(fresh, {"bad": {"h.0.q": (torch.ones(1, 2), torch.ones(4, 1))}})
    with pytest.raises(ValueError, match="no projection"):
        to_dual(fresh, {"bad": {"h.1.q": (torch.ones(1, 3), torch.ones(4, 1))}})


def test_what_cannot_be_imported_is_refused(bases, tool, tmp_path):
    """With one message, and nothing is written."""
    llama = {"r": 2, "target_modules": ["q_proj"]}
    good = peft_adapter(tmp_path / "good", bases["llama"], 0, **llama)
    peft_adapter(tmp_path / "gpt2", bases["gpt2"], 0, r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    peft_adapter(tmp_path / "dora", bases["llama"], 0, use_dora=True, **llama)
    peft_adapter(tmp_path / "whole", bases["llama"], 0, modules_to_save=["norm"], **llama)
    peft_adapter(tmp_path / "head", bases["llama"], 0, r=2, target_modules=["q_proj", "lm_head"])
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    cases = {
        "gpt2": "do not name one base",
        "dora": "use_dora=True: DoRA",
        "whole": "modules_to_save=['norm']",
        "head": "bad adapts lm_head, which is no projection of a decoder layer",
        "empty": "no adapter_config.json there",
    }
    output = tmp_path / "new"
    for name, message in cases.items():
        done = tool("import_peft", f"GOOD={good}", f"BAD={tmp_path / name}", f"OUTPUT={output}", check=False)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    other = (f"GOOD={good}", f"BAD={good}", f"MODEL_NAME={bases['phi3']}", f"OUTPUT={output}")
    done = tool("import_peft", *other, check=False)
    assert done.returncode == 1 and "q_proj, which the base does not have" in done.stderr
    done = tool("import_peft", f"GOOD={good}", f"BAD={good}", f"OUTPUT={tmp_path / 'empty'}", check=False)
    assert done.returncode == 1 and "nothing is overwritten" in done.stderr
    assert [path for path in files(tmp_path) if not path.startswith("copy")] == before


PLAIN_PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, prompt = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
if adapter:
    model = PeftModel.from_pretrained(model, adapter)
ids = AutoTokenizer.from_pretrained(base)(prompt, return_tensors="pt").input_ids
greedy = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 20, "do_sample": False}
output = model.eval().generate(input_ids=ids, **greedy)
assert not {"adapters", "lab", "routing", "all_caps", "mbpp"} & set(sys.modules)
print(output[0, ids.shape[1]:].tolist())
"""


def greedy_elsewhere(base, adapter, prompt, folder):
    """The greedy tokens of a process that has transformers and PEFT, and nothing of this project."""
    command = [sys.executable, "-c", PLAIN_PEFT, str(base), str(adapter), prompt]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_greedy_tokens_without_this_project(bases, tool, tmp_path):
    """Each command as a process of its own, then plain PEFT and plain transformers."""
    checkpoint, prompt = save(tmp_path / "run", bases["llama"], two_ranks), "Once upon a time"
    peft, merged, back = tmp_path / "peft", tmp_path / "merged", tmp_path / "back"
    tool("export", f"CHECKPOINT={checkpoint}", f"OUTPUT={peft}", process=True)
    tool("merge", f"CHECKPOINT={checkpoint}", f"OUTPUT={merged}", process=True)
    tool("import_peft", f"GOOD={peft}", f"BAD={peft}", f"OUTPUT={back}", "DTYPE=float32", process=True)
    tokens = {}
    for folder in (checkpoint, back):
        model, tokenizer, _ = load_checkpoint(folder, CPU)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for slot in ("bad", "both"):
            with ablated(model, slot):
                found = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
                )
            tokens[folder.name, slot] = found[0, ids.shape[1] :].tolist()
    assert (
        greedy_elsewhere(bases["llama"], peft, prompt, tmp_path)
        == tokens["run", "bad"]
        == tokens["back", "bad"]
    )
    assert greedy_elsewhere(merged, "", prompt, tmp_path) == tokens["run", "bad"] != tokens["run", "both"]
    assert read_config(back)["data_fingerprint"] is None
