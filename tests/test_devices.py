"""Every tensor is made where the model lies, tested without a GPU.

Fake tensors have a device, and refuse to mix two. A fake tensor has a shape, a dtype and a device, but no
memory, so a model can lie on "cuda:0" on any machine. The backward pass of autograd needs a real device; the
routed function's own backward is called by hand.
"""

from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIGS
from reference import ROUTES, attach
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers import AutoModelForCausalLM

from adapters import (
    bad_params,
    describe,
    good_params,
    output_cosines,
    routed,
    routed_modules,
    train_last_layers,
)
from adapters.bottleneck import RoutedBottleneck
from routing.batches import Example, collate
from routing.cross_entropy import FrozenLinearCrossEntropy
from routing.losses import example_losses

CUDA = torch.device("cuda:0")
EXAMPLES = [Example(list(range(5 + i, 16 + 3 * i)), 2) for i in range(3)]


@pytest.fixture
def fake():
    """No real memory anywhere; sizes that depend on data (how many targets there are) become symbols."""
    with FakeTensorMode(shape_env=ShapeEnv()):
        yield


def model_on_cuda(family="llama", dtype=torch.float32):
    """Only while the model is built is CUDA the default device."""
    with CUDA:
        model = AutoModelForCausalLM.from_config(CONFIGS[family](), dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def test_a_tensor_on_the_wrong_device_is_noticed(fake):
    """Otherwise the tests below could not fail."""
    model = model_on_cuda()
    attach(model, "lora")
    with pytest.raises(RuntimeError, match="device"):
        routed_modules(model)[0](torch.zeros(2, 3, 32))
    routed_modules(model)[0].gains = (torch.ones(3), 1.0)
    with pytest.raises(RuntimeError, match="device"), routed(model, list(ROUTES.values())):
        routed_modules(model)[0](torch.zeros(3, 3, 32, device=CUDA))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_routes_and_losses(fake, family, adapter_type):
    model = model_on_cuda(family).train()
    attach(model, adapter_type, dropout=0.1)
    assert {p.device for p in good_params(model) + bad_params(model)} == {CUDA}
    batch = collate(EXAMPLES, pad_id=1, device=CUDA)
    # behind a frozen head the loss counts its rows, and how many targets fake ones hold is unknown
    model.lm_head.weight.requires_grad_(True)
    with routed(model, list(ROUTES.values())), output_cosines(model) as cosines:
        losses = example_losses(model, batch)
    assert losses.device == CUDA and {cosine.device for cosine in cosines} == {CUDA}
    with torch.no_grad():
        assert example_losses(model.eval(), batch).device == CUDA
    assert describe(model)["type"] == adapter_type


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_generating_one_token_at_a_time(fake, dtype):
    model = model_on_cuda(dtype=dtype)
    attach(model, "lora")
    ids = torch.zeros(3, 4, dtype=torch.long, device=CUDA)
    with torch.no_grad(), routed(model, list(ROUTES.values())):
        output = model(input_ids=ids)
        output = model(input_ids=ids[:, :1], past_key_values=output.past_key_values)
    assert output.logits.device == CUDA and output.logits.dtype == dtype


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cosine", [False, True])
def test_the_backward_of_the_routed_function(fake, adapter_type, dtype, cosine):
    model = model_on_cuda(dtype=dtype)
    module = attach(model, adapter_type)[-1]
    dims, (down, up) = module.dims, module.get_good_params()
    batch, tokens, d_in, d_out = 3, 7, down.shape[1], up.shape[0]
    with routed(model, list(ROUTES.values())):
        base = torch.zeros(batch, tokens, d_out, dtype=dtype, device=CUDA)
        scale, update = module._columns(base)
    ctx = SimpleNamespace(save_for_backward=lambda *tensors: setattr(ctx, "saved_tensors", tensors))
    x = torch.zeros(batch, tokens, d_in, dtype=dtype, device=CUDA)
    weights = [*module.get_good_params(), *module.get_bad_params()]
    arguments = (base.flatten(0, 1), x, scale, update, module.RELU, cosine, *weights)
    output = RoutedBottleneck.forward(ctx, *arguments)
    ctx.needs_input_grad = [True] * len(arguments)
    grads = RoutedBottleneck.backward(ctx, *(output if cosine else (output,)))
    assert len(grads) == len(arguments) and len(dims) == 2
    for argument, grad in zip(arguments, grads, strict=True):
        if grad is not None:
            assert (grad.device, grad.dtype, grad.shape) == (CUDA, argument.dtype, argument.shape)
    assert [grad is None for grad in grads] == [False, False, True, True, True, True] + [False] * 4


def test_the_loss_behind_a_frozen_head(fake):
    ctx = SimpleNamespace(save_for_backward=lambda *tensors: setattr(ctx, "saved_tensors", tensors))
    ctx.needs_input_grad = [True, False, False, False]
    hidden, weight = torch.zeros(300, 32, device=CUDA), torch.zeros(400, 32, device=CUDA)
    targets = torch.zeros(300, dtype=torch.long, device=CUDA)
    losses = FrozenLinearCrossEntropy.forward(ctx, hidden, weight, None, targets)
    assert losses.device == CUDA and losses.shape == (300,)
    grad, *_ = FrozenLinearCrossEntropy.backward(ctx, losses)
    assert grad.device == CUDA and grad.shape == hidden.shape


def test_trained_layers_lie_where_their_layer_lies(fake):
    model = model_on_cuda()
    attach(model, "lora")
    train_last_layers(model, 1)
    assert {p.device for p in good_params(model)} == {CUDA}
