"""Every family that is said to work: training step, generation, save and load.

Each is a tiny model of its real class. That a mixed batch gives exactly the gradients of the loop is tested
for the same families in test_routing_exact.py.
"""

import json

import pytest
import torch
from conftest import CONFIGS, SHAPE, randomize, tiny_model
from reference import ROUTES, attach
from test_routing_exact import loop_gradients, mixed_gradients, worst_error
from transformers import (
    AutoModelForCausalLM,
    JambaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

import adapters
from adapters import (
    ablated,
    apply_dual_lora,
    apply_mlp_adapter,
    bad_params,
    coverage,
    describe,
    good_params,
    routed,
    train_last_layers,
)
from routing.batches import Example, collate
from routing.checkpoints import adapter_state
from routing.losses import example_losses
from routing.probes import probe

TYPES = ["lora", "mlp"]
BATCH = collate([Example(list(range(5 + i, 16 + 3 * i)), 2) for i in range(3)], device=torch.device("cpu"))
IDS = torch.randint(5, 400, (2, 20), generator=torch.Generator().manual_seed(5))


def make(family, adapter_type, seed=1):
    model = tiny_model(family)
    attach(model, adapter_type)
    randomize(model, seed)
    return model


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("adapter_type", TYPES)
def test_training_step(family, adapter_type):
    """A labelled batch moves its own adapter alone, and the loss falls; longer than the sliding windows."""
    model = make(family, adapter_type).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(bad_params(model), lr=1e-2)
    losses = []
    for _ in range(4):
        with routed(model, [ROUTES["bad"]] * 3):
            loss = example_losses(model, BATCH).mean()
            loss.backward()
        losses.append(loss.item())
        assert all(not p.grad.any() for p in good_params(model))
        assert all(p.grad.any() for p in bad_params(model))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    bad = {id(p) for p in bad_params(model)}
    assert all(torch.equal(before[name], p) != (id(p) in bad) for name, p in model.named_parameters())


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("adapter_type", TYPES)
def test_generation(family, adapter_type):
    """With the cache, a token at a time, what the whole sequence gives at once.

    Without adapters, the base's own tokens.
    """
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 1}
    base = tiny_model(family).generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), **settings)
    model = make(family, adapter_type)
    with torch.no_grad():
        found = model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), **settings)
        logits = model(input_ids=found, attention_mask=torch.ones_like(found)).logits[
            :, IDS.shape[1] - 1 : -1
        ]
        logits[..., 1] = -torch.inf  # min_new_tokens forbids EOS
        assert torch.equal(logits.argmax(-1), found[:, IDS.shape[1] :])
        with ablated(model, "both"):
            again = model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), **settings)
        assert not torch.allclose(model(input_ids=IDS).logits, tiny_model(family)(input_ids=IDS).logits)
    assert torch.equal(again, base)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("adapter_type", TYPES)
def test_save_and_load(family, adapter_type, tmp_path):
    """The base through save_pretrained, the adapters by name: the same logits, bit for bit."""
    tiny_model(family).save_pretrained(tmp_path)
    model = make(family, adapter_type)
    torch.save(adapter_state(model), tmp_path / "adapter.pt")
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="sdpa").eval()
    attach(loaded, adapter_type)
    _, unexpected = loaded.load_state_dict(torch.load(tmp_path / "adapter.pt"), strict=False)
    assert not unexpected
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("family", ["falcon", "olmo"])
@pytest.mark.parametrize("adapter_type", TYPES)
def test_models_that_change_the_output_in_place(family, adapter_type):
    """Falcon adds its attention to the MLP's output in place.

    OLMo clips queries, keys and values in place.
    """
    model = make(family, adapter_type).train()
    with routed(model, list(ROUTES.values())):
        example_losses(model, BATCH).mean().backward()
    assert any(p.grad.any() for p in good_params(model))


# Families of which not everything can be covered, and what `coverage` says of LoRA and MLP adapters.
PARTLY = {
    "opt": (
        lambda: OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=32),
        "LoRA on 12 of 12 projections of layers 2..3",
        "found no MLP in OPTDecoderLayer",
    ),
    "qwen3_moe": (
        lambda: Qwen3MoeConfig(**SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
        "LoRA on 8 of 8 projections of layers 2..3; not covered: mlp.experts.gate_up_proj (experts), "
        "mlp.experts.down_proj (experts), mlp.gate.weight",
        "MLP adapters on 2 of 2 MLPs of layers 2..3",
    ),
    "mixtral": (
        lambda: MixtralConfig(**SHAPE, num_local_experts=4),
        "LoRA on 8 of 8 projections of layers 2..3; not covered: "
        "mlp.gate.weight, mlp.experts.gate_up_proj (experts), "
        "mlp.experts.down_proj (experts)",
        "MLP adapters on 2 of 2 MLPs of layers 2..3",
    ),
    "qwen2_moe": (
        lambda: Qwen2MoeConfig(
            **SHAPE,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
        ),
        "LoRA on 8 of 16 projections of layers 2..3; not covered: mlp.gate.weight, "
        "mlp.experts.gate_up_proj (experts), mlp.experts.down_proj (experts), "
        "mlp.shared_expert.gate_proj.weight (experts), mlp.shared_expert.up_proj.weight (experts), "
        "mlp.shared_expert.down_proj.weight (experts), mlp.shared_expert_gate.weight (experts)",
        "MLP adapters on 2 of 2 MLPs of layers 2..3",
    ),
    "jamba": (
        lambda: JambaConfig(
            **{key: value for key, value in SHAPE.items() if key != "head_dim"},
            mamba_d_state=4,
            mamba_d_conv=2,
            mamba_dt_rank=2,
            num_experts=2,
            num_experts_per_tok=1,
            attn_layer_period=2,
            attn_layer_offset=1,
            use_mamba_kernels=False,
        ),
        "LoRA on 7 of 11 projections of layers 2..3; not covered: mamba (a state-space mixer), "
        "feed_forward.router.weight, feed_forward.experts.gate_up_proj (experts), "
        "feed_forward.experts.down_proj (experts)",
        "MLP adapters on 2 of 2 MLPs of layers 2..3",
    ),
}


@pytest.mark.parametrize("family", PARTLY)
@pytest.mark.parametrize("adapter_type", TYPES)
def test_what_is_not_covered_is_said_and_the_rest_learns_exactly(family, adapter_type):
    config, *expected = PARTLY[family]
    expected = expected[TYPES.index(adapter_type)]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(), dtype=torch.float32, experts_implementation="eager")
    if expected.startswith("found no"):
        with pytest.raises(ValueError, match=expected):
            attach(model, adapter_type)
        return
    attach(model, adapter_type)
    assert coverage(model) == expected
    randomize(model)
    model.double().train()
    routes = list(ROUTES.values())
    ids = IDS.repeat(2, 1)[: len(routes)]
    got = mixed_gradients(model, routes, ids)
    assert worst_error(got, loop_gradients(model, routes, ids)) < 1e-8


def test_the_probe_reads_a_model_that_flattens_examples():
    """OPT's MLP gets the tokens of all examples in one row."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(PARTLY["opt"][0](), dtype=torch.float32)
    attach(model, "lora")
    randomize(model)
    both = probe(model, BATCH, ROUTES, "no such kind")["orthogonality"]
    cosines = [probe(model, BATCH.select([i]), ROUTES, "")["orthogonality"] for i in range(len(BATCH.labels))]
    lengths = [BATCH.select([i]).attention_mask.sum().item() for i in range(len(BATCH.labels))]
    assert 0 < both < 1 and len(set(cosines)) == len(lengths)
    assert both == pytest.approx(sum(cosines) / len(cosines), rel=1e-4)


def test_coverage_names_layers_and_trained_ones():
    model = tiny_model()
    with pytest.raises(ValueError, match="no adapters"):
        coverage(model)
    apply_dual_lora(model, rank=0, bad_rank=2, alpha=2, layers=[0, 2, 3])
    train_last_layers(model, 1)
    assert coverage(model) == "LoRA on 21 of 21 projections of layers 0, 2..3; trained themselves: layer 3"


def test_lora_on_a_pure_state_space_model_is_refused():
    model = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, use_mambapy=False)
    )
    with pytest.raises(ValueError, match="LoRA is not supported on MambaForCausalLM"):
        attach(model, "lora")


@pytest.mark.parametrize("adapter_type", TYPES)
@pytest.mark.parametrize("trained_layers", [0, 2])
def test_a_description_rebuilds_the_adapters(adapter_type, trained_layers):
    model = tiny_model()
    if adapter_type == "lora":
        apply_dual_lora(model, 0 if trained_layers else 3, 2, alpha=7, dropout=0.25, layers=0.75)
    else:
        apply_mlp_adapter(model, 0 if trained_layers else 3, 2, layers=[0, 3])
    if trained_layers:
        train_last_layers(model, trained_layers)
    description = json.loads(json.dumps(describe(model)))
    assert description == {
        "type": adapter_type,
        "good_dim": 0 if trained_layers else 3,
        "bad_dim": 2,
        "gains": {"mlp": [1.0, 1.0], "lora": [0.0 if trained_layers else 7 / 3, 3.5]}[adapter_type],
        "dropout": 0.25 if adapter_type == "lora" else 0.0,
        "layers": [1, 2, 3] if adapter_type == "lora" else [0, 3],
        "trained_layers": trained_layers,
    }
    again = tiny_model()
    adapters.attach(again, description)
    assert describe(again) == description
    randomize(model)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "lore"}, 'type=\'lore\' must be "lora" or "mlp"'),
        ({"type": ["lora"]}, "type="),
        ({"good_dim": -1}, "good_dim=-1"),
        ({"bad_dim": 2.0}, "bad_dim=2.0"),
        ({"good_dim": 0, "bad_dim": 0}, "not all zero"),
        ({"gains": [1.0]}, "two numbers"),
        ({"gains": [1.0, float("nan")]}, "two numbers"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"layers": []}, "layers="),
        ({"layers": [4]}, "between 0 and 3"),
        ({"layers": 0.5}, "layers=0.5"),
        ({"trained_layers": 5}, "the model has 4 layers"),
        ({"trained_layers": True}, "trained_layers=True"),
        ({"alpha": 1}, "expected a description with"),
    ],
)
def test_a_nonsensical_description_is_refused_and_changes_nothing(change, message):
    fine = {"type": "lora", "good_dim": 3, "bad_dim": 2, "gains": [1.0, 2.0], "dropout": 0.0,
            "layers": [2, 3], "trained_layers": 0}  # fmt: skip
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        adapters.attach(model, {**fine, **change})
    adapters.attach(model, fine)
    assert describe(model) == fine
