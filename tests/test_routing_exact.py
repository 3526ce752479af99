"""Routing is exact: one forward and one backward of a mixed batch give what a loop over examples gives."""

import copy

import pytest
import torch
from conftest import CONFIGS, randomize, tiny_model
from reference import PLAIN, ROUTES, attach, gradients, per_example_losses, use_plain_autograd

from adapters import Route, ablated, routed
from adapters.bottleneck import add_branches
from adapters.structure import decoder_stack

MIXED = [
    Route(),
    ROUTES["bad"],
    ROUTES["good"],
    Route(0.25, 0.5, 0.5, 2.0),
    ROUTES["bad"],
    Route(0, 0),
    Route(bad_scale=-1),
]
IDS = torch.randint(2, 400, (len(MIXED), 9), generator=torch.Generator().manual_seed(3))


def make(adapter_type, family="llama", dtype=torch.float64, dropout=0.0):
    model = tiny_model(family)
    attach(model, adapter_type, dropout)
    randomize(model)
    return model.to(dtype).train()


def loop_gradients(model, routes=MIXED, ids=IDS, seed=0, losses=per_example_losses):
    """The plain loop: one example's loss at a time, ordinary autograd.

    Then it scales (zeroes) each adapter's gradient. The whole batch runs forward each time, from the same
    seed, so that dropout draws what it draws in the mixed batch.
    """
    model = copy.deepcopy(model)
    use_plain_autograd(model, routes)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for i, route in enumerate(routes):
        torch.manual_seed(seed)
        (losses(model, ids)[i] / len(routes)).backward()
        for name, gradient in gradients(model).items():
            total[name] += gradient * float(route.update_good if name.endswith("good") else route.update_bad)
    return total


def mixed_gradients(model, routes=MIXED, ids=IDS, seed=0, losses=per_example_losses):
    torch.manual_seed(seed)
    with routed(model, routes):
        losses(model, ids).mean().backward()
    return gradients(model)


def worst_error(got, want):
    assert got.keys() == want.keys()
    largest = max(gradient.abs().max() for gradient in want.values())
    assert largest > 1e-5  # otherwise there is nothing to compare
    return max((got[name] - want[name]).abs().max() / largest for name in want)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_mixed_batch_equals_the_loop(adapter_type, family):
    model = make(adapter_type, family)
    assert worst_error(mixed_gradients(model), loop_gradients(model)) < 1e-10


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_batch_of_one_equals_its_share_of_the_mixed_batch(adapter_type):
    """Nothing of one example leaks into another's gradient.

    The mixed gradient is the mean of those of batches of one. On GPT-2: Llama's norms and rotations compute
    in fp32 even in an fp64 model, and round with the batch's shape (to 1e-7).
    """
    model = make(adapter_type, "gpt2")
    mixed = mixed_gradients(model)
    alone = [mixed_gradients(model, [route], IDS[i : i + 1]) for i, route in enumerate(MIXED)]
    mean = {name: sum(gradient[name] for gradient in alone) / len(MIXED) for name in mixed}
    assert worst_error(mixed, mean) < 1e-10


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_with_activation_checkpointing(adapter_type):
    model = make(adapter_type, dropout=0.3)
    want = loop_gradients(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    assert worst_error(mixed_gradients(model), want) < 1e-10


def test_with_dropout_one_mask_serves_both_adapters():
    model = make("lora", dropout=0.3)
    got = mixed_gradients(model)
    assert worst_error(got, loop_gradients(model)) < 1e-10
    assert worst_error(got, loop_gradients(model, seed=1)) > 1e-3  # the masks matter


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_under_autocast(adapter_type):
    """To bf16 precision, and no worse than the plain loop under autocast."""
    model = make(adapter_type, dtype=torch.float32)
    want = loop_gradients(make(adapter_type))

    def losses(model, ids):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return per_example_losses(model, ids)

    got, loop = mixed_gradients(model, losses=losses), loop_gradients(model, losses=losses)
    assert all(gradient.dtype == torch.float32 for gradient in got.values())
    assert worst_error(got, want) < 1.5 * max(worst_error(loop, want), torch.tensor(0.01))


# Compiling is slow, and so are these tests.
COMPILED = [
    pytest.param("lora", "layers", "aot_eager", marks=pytest.mark.slow),
    pytest.param("mlp", "model", "aot_eager", marks=pytest.mark.slow),
    pytest.param("lora", "model", "aot_eager", marks=pytest.mark.slow),
    pytest.param("mlp", "layers", "aot_eager", marks=pytest.mark.slow),
    pytest.param("lora", "layers", "inductor", marks=pytest.mark.slow),
    pytest.param("lora", "model", "inductor", marks=pytest.mark.slow),
    pytest.param("mlp", "layers", "inductor", marks=pytest.mark.slow),
    pytest.param("mlp", "model", "inductor", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("adapter_type", "part", "backend"), COMPILED)
def test_with_torch_compile(adapter_type, part, backend):
    torch._dynamo.reset()
    # inductor fuses, and so rounds differently, what Llama computes in fp32: 1e-6
    model = make(adapter_type, "gpt2")
    # the layers with adapters, and one without, are enough
    del model.transformer.h[0]
    others = list(reversed(MIXED))
    # The routes are inputs of the compiled graph, not constants in it; and lengths may vary.
    batches = [
        (routes, ids, loop_gradients(model, routes, ids))
        for routes, ids in [(MIXED, IDS), (MIXED, IDS), (others, IDS), (others, IDS[:, :6])]
    ]
    for module in [model] if part == "model" else decoder_stack(model):
        module.compile(backend=backend)
    for routes, ids, want in batches:
        with routed(model, routes):
            per_example_losses(model, ids).mean().backward()
        assert worst_error(gradients(model), want) < 1e-10


@pytest.mark.parametrize("relu", [False, True])
def test_routes_per_token(relu):
    """Against weights that are detached at the tokens that may not update them: u W + (1 - u) W.detach()."""
    generator = torch.Generator().manual_seed(0)
    base, x, down, up, scale = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in [(2, 5, 6), (2, 5, 4), (3, 4), (6, 3), (2, 5, 3)]
    )
    update = torch.rand((2, 5, 3), generator=generator, dtype=torch.float64).round(decimals=1)
    hidden = update * (x @ down.T) + (1 - update) * (x @ down.T.detach())
    hidden = (hidden.relu() if relu else hidden) * scale.detach()
    want = base + (update * hidden) @ up.T + ((1 - update) * hidden) @ up.T.detach()
    got = add_branches(base, x, scale.detach(), update, relu, down, up)
    torch.testing.assert_close(got, want)
    weight = torch.randn(want.shape, generator=generator, dtype=torch.float64)
    leaves = [base, x, down, up]
    for ours, theirs in zip(
        torch.autograd.grad((got * weight).sum(), leaves),
        torch.autograd.grad((want * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_a_nest_of_equal_token_routes_is_the_route_of_the_example(adapter_type):
    model = make(adapter_type)
    nest = [[route] * IDS.shape[1] for route in MIXED]
    assert worst_error(mixed_gradients(model, nest), mixed_gradients(model)) < 1e-12


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_earlier_bad_adapters_learn_through_later_good_ones(adapter_type):
    """Masking parameter gradients is not detaching an adapter's output.

    That would change what earlier layers learn.
    """
    model = make(adapter_type)
    ids = IDS[:1]
    masked = mixed_gradients(model, [ROUTES["bad"]], ids)
    detached = copy.deepcopy(model)
    use_plain_autograd(detached, [PLAIN])
    for module in detached.modules():
        if hasattr(module, "get_good_params"):
            # the same forward values; but nothing flows back through the good branch
            plain = module.forward
            module.forward = lambda x, module=module, plain=plain: _without_good_path(module, plain, x)
    per_example_losses(detached, ids).mean().backward()
    wrong = gradients(detached)
    bad = [name for name in masked if name.endswith("bad")]
    error = max((masked[n] - wrong[n]).norm() / masked[n].norm() for n in bad)
    assert error > 0.01


def _without_good_path(module, plain, x):
    whole = plain(x)
    with ablated(module, "good"):
        without = plain(x)
    return without + (whole - without).detach()


# What each label's examples do to each adapter's gradient, compared with plain training
# (no routing, both active).
TABLE = {  # label: (good, bad)
    None: ("plain", "plain"),
    "bad": ("zero", "plain"),
    "good": ("other", "zero"),
}


@pytest.mark.parametrize("label", TABLE)
@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_which_gradients_are_zero_plain_or_neither(adapter_type, label):
    model = make(adapter_type)
    routes = [ROUTES[label]] * len(IDS)
    per_example_losses(model, IDS).mean().backward()  # without `routed`: both adapters learn from everything
    plain = gradients(model)
    got = mixed_gradients(model, routes)
    for slot, expected in zip(("good", "bad"), TABLE[label], strict=True):
        for name in (name for name in got if name.endswith(slot)):
            same = torch.allclose(got[name], plain[name], rtol=1e-9, atol=1e-13)
            assert plain[name].abs().max() > 0
            assert {"zero": not got[name].any(), "plain": same, "other": not same and bool(got[name].any())}[
                expected
            ], name


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_labelled_good_trains_good_as_if_bad_were_ablated(adapter_type):
    model = make(adapter_type)
    got = mixed_gradients(model, [ROUTES["good"]] * len(IDS))
    with ablated(model, "bad"):
        per_example_losses(model, IDS).mean().backward()
    want = gradients(model)
    for name in want:
        if name.endswith("good"):
            torch.testing.assert_close(got[name], want[name], rtol=1e-9, atol=1e-13)
