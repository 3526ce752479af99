"""Every family that is said to work: training step, generation, save and load, on a tiny model of its real class.

That a mixed batch gives exactly the gradients of the loop is tested for the same families in test_routing_exact.py.
"""

import pytest
import torch
from conftest import CONFIGS, randomize, tiny_model
from reference import ROUTES, attach

from adapters import ablated, bad_params, good_params, routed
from routing.batches import Example, collate
from routing.checkpoints import adapter_state
from routing.training import example_losses

TYPES = ["lora", "mlp"]
BATCH = collate(
    [Example(list(range(5 + i, 16 + 3 * i)), 2) for i in range(3)], pad_id=1, device=torch.device("cpu")
)
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
    """With the cache, a token at a time, what the whole sequence gives at once; and without adapters the base's own tokens."""
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
    """Falcon adds its attention to the MLP's output in place, OLMo clips queries, keys and values in place."""
    model = make(family, adapter_type).train()
    with routed(model, list(ROUTES.values())):
        example_losses(model, BATCH).mean().backward()
    assert any(p.grad.any() for p in good_params(model))
