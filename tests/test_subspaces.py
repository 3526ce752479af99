"""Principal angles and update cosines against known answers and scipy's."""

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import randomize, tiny_model
from reference import attach

from routing.subspaces import overlaps, principal_cosines, random_weights, squared_overlap, update_cosine


def test_principal_cosines_against_scipy():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(20, 4, generator=generator), torch.randn(20, 3, generator=generator)
    want = np.cos(scipy.linalg.subspace_angles(a.double().numpy(), b.double().numpy()))
    np.testing.assert_allclose(np.sort(principal_cosines(a, b).numpy()), np.sort(want), atol=1e-9)


def test_equal_orthogonal_and_rank_deficient_subspaces():
    eye = torch.eye(6)
    assert squared_overlap(eye[:, :2], eye[:, :2] @ torch.tensor([[1.0, 2.0], [0.0, 3.0]])) == pytest.approx(
        1.0
    )
    assert squared_overlap(eye[:, :2], eye[:, 2:5]) == pytest.approx(0.0, abs=1e-12)
    twice = torch.stack([eye[:, 0], 2 * eye[:, 0]], dim=1)  # spans one dimension, not two
    assert principal_cosines(twice, eye[:, :2]).tolist() == pytest.approx([1.0])


def test_update_cosine_equals_that_of_the_products():
    generator = torch.Generator().manual_seed(0)
    down_a, down_b = torch.randn(3, 7, generator=generator), torch.randn(2, 7, generator=generator)
    up_a, up_b = torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)
    want = torch.cosine_similarity((up_a @ down_a).flatten(), (up_b @ down_b).flatten(), dim=0)
    assert update_cosine(down_a, up_a, down_b, up_b) == pytest.approx(want.item(), abs=1e-6)
    assert update_cosine(down_a, up_a, down_a, -2 * up_a) == pytest.approx(-1.0)


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_random_adapters_read_as_random(adapter_type):
    model = tiny_model()
    attach(model, adapter_type)
    randomize(model)
    readings = overlaps(model, draws=16)
    assert len(readings) == (14 if adapter_type == "lora" else 2)
    for name in ("down", "up"):
        measured = np.mean([getattr(r, name) for r in readings])
        assert measured == pytest.approx(np.mean([getattr(r, f"random_{name}") for r in readings]), rel=0.5)
    assert all((r.update is None) == (adapter_type == "mlp") for r in readings)


def test_untrained_adapters_read_as_nothing_not_as_nan():
    model = tiny_model()
    attach(model, "lora")  # B is zero
    assert all(r.up is None and r.update is None and r.down is not None for r in overlaps(model, draws=2))


def test_random_weights_keep_norms_and_go_away():
    model = tiny_model()
    attach(model, "lora")
    randomize(model)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    with random_weights(model):
        inside = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    after = [p for p in model.parameters() if p.requires_grad]
    for was, drawn, now in zip(before, inside, after, strict=True):
        assert torch.equal(was, now) and not torch.equal(was, drawn)
        torch.testing.assert_close(drawn.norm(), was.norm())
