"""The loss without all logits at once equals the one from transformers' logits.

Values, and every adapter gradient.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import CONFIGS, SHAPE, randomize, tiny_model
from reference import ROUTES, attach, gradients
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GPTNeoXConfig,
    GraniteConfig,
    MistralConfig,
    ModernBertDecoderConfig,
    Olmo2Config,
    Phi3Config,
    RecurrentGemmaConfig,
)

from adapters import output_cosines, routed
from routing import cross_entropy
from routing import losses as losses_module
from routing.batches import IGNORE, Example, collate
from routing.losses import example_losses

CPU = torch.device("cpu")
LABELS = [None, "bad", "good"]


def a_batch(device=CPU):
    examples = [Example(list(range(2 + i, 12 + 3 * i)), 1 + 2 * i, label=LABELS[i]) for i in range(3)]
    return collate(examples, device)


def losses_and_gradients(model, batch):
    with routed(model, [ROUTES[label] for label in batch.labels]):
        losses = example_losses(model, batch)
        losses.mean().backward()
    return losses.detach(), gradients(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", CONFIGS)
def test_equal_to_the_loss_from_logits(family, dtype, monkeypatch):
    model = tiny_model(family, dtype)
    attach(model, "lora")
    randomize(model)
    assert cross_entropy.frozen_head(model) is not None
    monkeypatch.setattr(cross_entropy, "MIN_ROWS", 1)
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 5 * 400)  # five rows at a time, and a last chunk of fewer
    batch = a_batch()
    losses, found = losses_and_gradients(model, batch)
    monkeypatch.setattr(losses_module, "frozen_head", lambda model: None)
    from_logits, wanted = losses_and_gradients(model, batch)
    assert losses.dtype == from_logits.dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(losses, from_logits, **tolerance)
    assert sum(gradient.abs().sum() for gradient in wanted.values()) > 0
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **tolerance)


def test_in_bf16_as_near_as_the_loss_from_logits():
    model = tiny_model(dtype=torch.bfloat16)
    attach(model, "lora")
    randomize(model)
    exact = tiny_model(dtype=torch.float32)
    attach(exact, "lora")
    randomize(exact)
    batch = a_batch()
    near, wanted = losses_and_gradients(model, batch), losses_and_gradients(exact, batch)
    torch.testing.assert_close(near[0], wanted[0], rtol=0.02, atol=0.02)
    a, b = (torch.cat([g.flatten().float() for g in part[1].values()]) for part in (near, wanted))
    assert torch.cosine_similarity(a, b, dim=0) > 0.99


# Without the names that Falcon and GPT-NeoX have no use for.
WIDTHS = {key: SHAPE[key] for key in SHAPE if key not in ("head_dim", "num_key_value_heads")}
# family -> (config, whether its logits are just head(last_hidden_state))
FAMILIES = {family: (make, True) for family, make in CONFIGS.items()} | {
    "mistral": (lambda: MistralConfig(**SHAPE), True),
    "gpt_neox": (lambda: GPTNeoXConfig(**WIDTHS), True),
    "phi3": (lambda: Phi3Config(**WIDTHS), True),
    "falcon": (lambda: FalconConfig(**WIDTHS), True),
    "olmo2": (lambda: Olmo2Config(**SHAPE), True),
    "granite": (lambda: GraniteConfig(**SHAPE, logits_scaling=4.0), False),
    "cohere": (lambda: CohereConfig(**SHAPE, logit_scale=0.25), False),
    "gemma2": (
        lambda: Gemma2Config(**SHAPE, query_pre_attn_scalar=8, final_logit_softcapping=5.0),
        False,
    ),
    "modernbert_decoder": (lambda: ModernBertDecoderConfig(**WIDTHS), False),
    "recurrent_gemma": (lambda: RecurrentGemmaConfig(**WIDTHS, lru_width=32, logits_soft_cap=5.0), False),
}


def family_model(family, dtype=torch.float32):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family][0](), dtype=dtype).eval().requires_grad_(False)


def forget_states(model):
    """RecurrentGemma goes on from the states of its last forward pass, graph and all."""
    for module in model.modules():
        if hasattr(module, "recurrent_states"):
            module.recurrent_states = None


def losses_and_input_gradients(model, losses_of):
    """Losses, and their gradient with respect to the embedded tokens.

    It passes through all layers and the head.
    """
    forget_states(model)
    embedded = []

    def keep(module, args, output):
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = model.get_input_embeddings().register_forward_hook(keep)
    try:
        losses = losses_of(model)
        (gradient,) = torch.autograd.grad(losses.sum(), embedded[-1])  # the first is the probe's
    finally:
        handle.remove()
    return losses.detach(), gradient


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_the_models_own_logits(family, capsys):
    """Whatever a model does between its last hidden state and its logits."""
    model, batch = family_model(family), a_batch()

    def from_logits(model):
        inputs = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "position_ids")}
        logits = model(**inputs, use_cache=False).logits
        losses = F.cross_entropy(logits.mT, batch.targets, ignore_index=IGNORE, reduction="none")
        return losses.sum(1) / (batch.targets != IGNORE).sum(1)

    wanted, wanted_gradient = losses_and_input_gradients(model, from_logits)
    found, gradient = losses_and_input_gradients(model, lambda model: example_losses(model, batch))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-3, atol=1e-6)
    assert wanted_gradient.abs().max() > 0
    forget_states(model)
    plain = FAMILIES[family][1]
    assert (cross_entropy.frozen_head(model) is not None) == plain
    assert capsys.readouterr().out.count("all of them at once") == (not plain)  # once


@pytest.mark.parametrize(("family", "found"), [("llama", True), ("gemma2", False), ("granite", False)])
def test_the_verdict_in_bf16(family, found):
    assert (cross_entropy.frozen_head(family_model(family, torch.bfloat16)) is not None) == found


def test_a_soft_cap_far_above_the_logits_is_seen():
    """An untrained model's logits are small, and a cap of 30 changes them by too little to notice.

    Later it matters.
    """
    config = Gemma2Config(**SHAPE, query_pre_attn_scalar=8, final_logit_softcapping=30.0)
    assert cross_entropy.frozen_head(AutoModelForCausalLM.from_config(config).requires_grad_(False)) is None


def test_looking_for_the_verdict_leaves_no_trace():
    """With dropout, routes and recorded cosines.

    The first step is what it would have been without the comparison.
    """
    model = tiny_model()
    attach(model, "lora", dropout=0.5)
    randomize(model)
    model.train()
    model.model.layers[0].eval()
    batch, runs = a_batch(), []
    for asked_before in (True, False):
        each = copy.deepcopy(model)
        if asked_before:
            assert cross_entropy.frozen_head(each) is not None
        torch.manual_seed(5)
        with routed(each, [ROUTES[label] for label in batch.labels]), output_cosines(each) as cosines:
            losses = example_losses(each, batch)
            losses.mean().backward()
        runs.append((losses.detach(), len(cosines), gradients(each)))
        assert each.training and not each.model.layers[0].training
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)


def test_a_head_that_is_trained_or_none_at_all():
    trained = tiny_model("qwen2")  # its head is a matrix of its own
    attach(trained, "lora")
    assert cross_entropy.frozen_head(trained) is not None
    trained.lm_head.weight.requires_grad_(True)
    assert cross_entropy.frozen_head(trained) is None
    assert cross_entropy.frozen_head(nn.Linear(2, 2)) is None


def test_a_batch_knows_where_its_targets_are():
    batch = a_batch()
    for each in (batch, batch.select([2, 0])):
        has_target = each.targets != IGNORE
        assert torch.equal(each.target_index, has_target.flatten().nonzero().squeeze(1))
        assert torch.equal(each.target_ids, each.targets[has_target])
        assert torch.equal(each.columns, has_target.any(0).nonzero().squeeze(1))
        assert each.lengths == each.attention_mask.sum(1).tolist()
        assert each.input_ids.shape[1] == batch.input_ids.shape[1]
    assert torch.equal(batch.select([2, 0]).input_ids, batch.input_ids[[2, 0]])
    assert batch.select([2, 0]).labels == ["good", None]


@pytest.mark.parametrize("in_chunks", [True, False])
def test_the_loss_never_asks_the_device_for_a_value(in_chunks, monkeypatch):
    """On a pretended GPU a tensor on the wrong device raises.

    So does whatever has to wait for values or their number.
    """
    if not in_chunks:
        monkeypatch.setattr(losses_module, "frozen_head", lambda model: None)
    with FakeTensorMode():
        with torch.device("cuda:0"):
            model = AutoModelForCausalLM.from_config(CONFIGS["llama"](), attn_implementation="sdpa")
        attach(model, "lora")
        batch = a_batch(torch.device("cuda:0"))
        with routed(model, [ROUTES[label] for label in batch.labels]):
            losses = example_losses(model, batch)
    assert losses.device.type == "cuda" and losses.shape == (3,)
