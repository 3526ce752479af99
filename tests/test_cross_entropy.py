"""The loss without all logits at once equals the one from transformers' logits: values, and every adapter gradient."""

import pytest
import torch
from conftest import CONFIGS, randomize, tiny_model
from reference import ROUTES, attach, gradients
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config

from adapters import routed
from routing import cross_entropy
from routing import losses as losses_module
from routing.batches import Example, collate
from routing.losses import example_losses

LABELS = [None, "bad", "good"]


def a_batch():
    examples = [Example(list(range(2 + i, 12 + 3 * i)), 1 + 2 * i, label=LABELS[i]) for i in range(3)]
    return collate(examples, torch.device("cpu"))


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


def test_models_that_need_their_logits_whole_get_them():
    capped = AutoModelForCausalLM.from_config(
        Gemma2Config(vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=8, final_logit_softcapping=5.0)
    ).requires_grad_(False)  # fmt: skip
    assert cross_entropy.frozen_head(capped) is None
    trained = tiny_model("qwen2")  # its head is a matrix of its own
    attach(trained, "lora")
    assert cross_entropy.frozen_head(trained) is not None
    trained.lm_head.weight.requires_grad_(True)
    assert cross_entropy.frozen_head(trained) is None
    assert cross_entropy.frozen_head(nn.Linear(2, 2)) is None
