"""The adapter modules: where they go, what they compute, scales, and clear errors."""

import copy

import pytest
import torch
from conftest import CONFIGS, randomize, tiny_model
from reference import attach, per_example_losses
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, LlamaForCausalLM

from adapters import (
    DualLoRALinear,
    Route,
    ablated,
    apply_dual_lora,
    apply_mlp_adapter,
    bad_params,
    describe,
    good_params,
    output_cosines,
    routed,
    routed_modules,
    set_scales,
    train_last_layers,
)

IDS = torch.randint(2, 400, (3, 7), generator=torch.Generator().manual_seed(0))


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids, position_ids=torch.arange(ids.shape[1]).expand(ids.shape)).logits


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_fresh_adapters_change_no_logit_and_sit_in_the_last_half(family, adapter_type):
    model = tiny_model(family)
    before = logits(model)
    modules = attach(model, adapter_type)
    assert torch.equal(logits(model), before)
    # attention's projections are fused in four of them, and the MLP's in Phi-3
    fused = family in ("gpt2", "gptneox", "phi3", "falcon")
    per_layer = 1 if adapter_type == "mlp" else 4 if fused else 7
    names = [name for name, module in model.named_modules() if module in modules]
    assert len(names) == 2 * per_layer and all(".2." in name or ".3." in name for name in names)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in good_params(model) + bad_params(model)}


def test_a_choice_of_layers():
    model = tiny_model()
    apply_dual_lora(model, 2, 2, 2, layers=[0, -1])
    indices = {
        int(name.split(".")[2])
        for name, module in model.named_modules()
        if isinstance(module, DualLoRALinear)
    }
    assert indices == {0, 3}


@pytest.mark.parametrize(
    ("share", "layers"), [(1.0, [0, 1, 2, 3]), (0.75, [1, 2, 3]), (0.5, [2, 3]), (0.1, [3])]
)
def test_a_share_of_the_layers(share, layers):
    model = tiny_model()
    apply_mlp_adapter(model, 2, 2, layers=share)
    assert describe(model)["layers"] == layers


@pytest.mark.parametrize("training", [True, False])
def test_adapters_are_in_the_mode_of_the_model(training):
    """Beside a model in eval mode a dropout must not drop anything."""
    model = tiny_model().train(training)
    for module in attach(model, "lora", dropout=0.5):
        assert module.training == module.dropout.training == training


def test_parameter_names_and_shapes():
    model = tiny_model()
    lora = apply_dual_lora(model, rank=3, bad_rank=2, alpha=4)[0]
    assert {name: tuple(p.shape) for name, p in lora.named_parameters(recurse=False)} == {
        "lora_A_good": (3, 32), "lora_B_good": (32, 3), "lora_A_bad": (2, 32), "lora_B_bad": (32, 2),
    }  # fmt: skip
    assert [id(p) for p in lora.get_good_params()] == [id(lora.lora_A_good), id(lora.lora_B_good)]
    mlp = apply_mlp_adapter(tiny_model(), adapter_dim=5, bad_adapter_dim=3)[0]
    assert {name: tuple(p.shape) for name, p in mlp.named_parameters(recurse=False)} == {
        "down_good": (5, 32), "up_good": (32, 5), "down_bad": (3, 32), "up_bad": (32, 3),
    }  # fmt: skip


def test_masters_are_fp32_beside_a_bf16_base():
    model = tiny_model(dtype=torch.bfloat16)
    attach(model, "lora")
    assert {p.dtype for p in good_params(model) + bad_params(model)} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


def test_initialisation_takes_fan_in_from_the_input_dimension():
    torch.manual_seed(0)
    module = DualLoRALinear(nn.Linear(1024, 8), rank=64, bad_rank=64, alpha=1)
    bound = (1 / 1024) ** 0.5  # nn.Linear's: uniform in +- 1 / sqrt(fan_in)
    for parameter in (module.lora_A_good, module.lora_A_bad):
        assert 0.95 * bound < parameter.abs().max() <= bound
    assert not module.lora_B_good.any()


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_ablated_equals_removed(adapter_type):
    model = tiny_model().double()
    base = logits(model)
    attach(model, adapter_type)
    model.double()
    randomize(model)
    full = logits(model)
    with ablated(model, "both"):
        assert torch.equal(logits(model), base)
    with ablated(model, "bad"):
        without_bad = logits(model)
    with torch.no_grad():
        for parameter in bad_params(model):
            parameter.zero_()
    torch.testing.assert_close(logits(model), without_bad, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(full, without_bad)


def test_scales_interpolate_per_row_and_multiply():
    model = tiny_model().double()
    attach(model, "lora")
    model.double()
    randomize(model)
    singles = []
    for good_scale, bad_scale in [(1, 1), (1, 0), (2, -1)]:
        set_scales(model, good_scale, bad_scale)
        singles.append(logits(model, IDS[:1]))
    set_scales(model)
    with routed(model, [Route(), Route(bad_scale=0), Route(good_scale=2, bad_scale=-1)]):
        together = logits(model, IDS[:1].repeat(3, 1))
    torch.testing.assert_close(together, torch.cat(singles), rtol=1e-10, atol=1e-10)
    with ablated(model, "bad"), routed(model, [Route()]):  # an ablated adapter stays ablated
        torch.testing.assert_close(logits(model, IDS[:1]), singles[1], rtol=1e-10, atol=1e-10)


def test_scales_and_routes_come_back_after_an_exception():
    model = tiny_model()
    attach(model, "mlp")
    set_scales(model, 0.5, 2)
    with pytest.raises(RuntimeError, match="inside"), ablated(model, "both"), routed(model, [Route()]):
        raise RuntimeError("inside")
    for module in routed_modules(model):
        assert (module.good_scale, module.bad_scale, module.routing) == (0.5, 2.0, None)


def test_nested_routes_restore_the_outer_ones():
    model = tiny_model()
    modules = attach(model, "lora")
    with routed(model, [Route()]):
        outer = modules[0].routing
        with routed(model, [Route(), Route()]):
            pass
        assert modules[0].routing is outer


@pytest.mark.parametrize("routes", [[Route()], [Route()] * 4, [[Route()] * 6] * 3])
def test_routes_that_do_not_fit_the_batch_are_an_error(routes):
    model = tiny_model()
    attach(model, "lora")
    with routed(model, routes), pytest.raises(ValueError, match="one Route per example"):
        logits(model)


def with_peft():
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(tiny_model(), peft.LoraConfig(r=2, target_modules=["q_proj"]))


@pytest.mark.parametrize(
    ("error", "message", "action"),
    [
        (ValueError, "no routes", lambda m: routed(m, []).__enter__()),
        (TypeError, "one Route per example", lambda m: routed(m, ["bad"]).__enter__()),
        (ValueError, "different numbers", lambda m: routed(m, [[Route()], [Route()] * 2]).__enter__()),
        (ValueError, "between 0 and 1", lambda m: Route(update_good=2)),
        (ValueError, "which adapter", lambda m: ablated(m, "forget").__enter__()),
        (ValueError, "already has adapters", lambda m: apply_dual_lora(m, 1, 1, 1)),
        (ValueError, "already has adapters", lambda m: apply_mlp_adapter(m, 1, 1)),
        (ValueError, "adapters of PEFT", lambda m: apply_dual_lora(with_peft(), 1, 1, 1)),
        (ValueError, "no adapters", lambda m: good_params(tiny_model())),
        (ValueError, "no decoder layers", lambda m: apply_dual_lora(nn.Linear(2, 2), 1, 1, 1)),
        (
            ValueError,
            "no MLP",
            lambda m: apply_mlp_adapter(nn.ModuleList([nn.Sequential(nn.Linear(2, 2))] * 2), 1, 1),
        ),
        (ValueError, "between 0 and 3", lambda m: apply_dual_lora(tiny_model(), 1, 1, 1, layers=[4])),
        (ValueError, "above 0 and at most 1", lambda m: apply_dual_lora(tiny_model(), 1, 1, 1, layers=0.0)),
        (ValueError, "above 0 and at most 1", lambda m: apply_mlp_adapter(tiny_model(), 1, 1, layers=1.5)),
        (ValueError, "a share such as 0.5", lambda m: apply_mlp_adapter(tiny_model(), 1, 1, layers=1)),
        (ValueError, "not all zero", lambda m: apply_dual_lora(tiny_model(), 0, 0, 1)),
    ],
)
def test_clear_errors(error, message, action):
    model = tiny_model()
    attach(model, "lora")
    with pytest.raises(error, match=message):
        action(model)


def test_a_failed_apply_leaves_the_model_alone():
    model = tiny_model()
    with pytest.raises(ValueError, match="not all zero"):
        apply_dual_lora(model, 0, 0, 1)
    assert all(p.requires_grad for p in model.parameters())
    attach(model, "lora")


def test_vision_tower_beside_a_larger_decoder_is_not_taken_for_it():
    model = tiny_model()
    model.vision = LlamaForCausalLM(
        LlamaConfig(**{**model.config.to_dict(), "num_hidden_layers": 1})
    ).model.layers
    apply_dual_lora(model, 2, 2, 2)
    assert not any(isinstance(module, DualLoRALinear) for module in model.vision.modules())


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_output_cosines(adapter_type):
    """1 for equal adapters, the same forward pass, routed gradients, and nothing left behind."""
    model = tiny_model().double()
    modules = attach(model, adapter_type)
    model.double()
    randomize(model)
    plain = logits(model)
    with output_cosines(model) as cosines:
        torch.testing.assert_close(logits(model), plain, rtol=1e-10, atol=1e-10)
    assert [tuple(c.shape) for c in cosines] == [tuple(IDS.shape)] * len(modules)
    assert all(((c >= 0) & (c <= 1)).all() for c in cosines)
    with routed(model, [Route(update_good=False)] * 3), output_cosines(model) as cosines:
        per_example_losses(model, IDS)
        sum(c.mean() for c in cosines).backward()
    assert all(not p.grad.any() for p in good_params(model)) and any(p.grad.any() for p in bad_params(model))
    with torch.no_grad():
        for module in modules:
            for good, bad in zip(module.get_good_params(), module.get_bad_params(), strict=True):
                size = [min(pair) for pair in zip(good.shape, bad.shape, strict=True)]
                good.zero_(), bad.zero_()
                value = torch.randn(size, dtype=good.dtype)
                good[: size[0], : size[1]], bad[: size[0], : size[1]] = value, value
    with output_cosines(model) as cosines:
        logits(model)
    assert all(((c - 1).abs() < 1e-5).logical_or(c == 0).all() for c in cosines)
    assert all(module.cosines is None for module in modules)


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
@pytest.mark.parametrize(
    "change", ["in place", "data", "load", "exchange", "optimizer", "inference", "float64"]
)
def test_weights_kept_for_evaluation_follow_every_change(adapter_type, change):
    """What `eval()` and no_grad keep from one forward to the next is what a forward with gradients gives."""
    model = tiny_model().double() if change == "float64" else tiny_model()
    modules = attach(model, adapter_type)
    randomize(model)

    def agree():
        with torch.enable_grad():
            want = model(input_ids=IDS).logits.detach()
        for _ in range(2):
            torch.testing.assert_close(logits_now(), want, rtol=1e-4, atol=1e-5)
        return want

    def logits_now():
        with torch.no_grad():
            return model(input_ids=IDS).logits

    before = agree()
    kept = [module._fused.down for module in modules]
    logits_now()
    assert all(module._fused.down is down for module, down in zip(modules, kept, strict=True))
    parameters = good_params(model) + bad_params(model)
    if change == "load":
        model.load_state_dict({name: 2 * p for name, p in model.state_dict().items()})
    elif change == "optimizer":
        optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=True)
        model(input_ids=IDS).logits.square().mean().backward()
        torch.testing.assert_close(logits_now(), before, rtol=1e-4, atol=1e-5)
        optimizer.step()
        optimizer.zero_grad()
    elif change == "float64":
        model.float()
    elif change == "exchange":
        for module in modules:
            name = next(iter(dict(module.named_parameters(recurse=False))))
            setattr(module, name, nn.Parameter(3 * getattr(module, name).detach()))
    else:
        with torch.inference_mode() if change == "inference" else torch.no_grad():
            for p in parameters:
                if change == "data":
                    p.data = 1.5 * p
                else:
                    p.mul_(1.5)
    if change != "float64":
        assert not torch.allclose(agree(), before)
    agree()
    with ablated(model, "bad"):
        agree()
    set_scales(model, 0.5, -1.0)
    agree()
    with routed(model, [Route(), Route(bad_scale=0), Route(good_scale=2, bad_scale=-1)]):
        agree()
    twin = copy.deepcopy(model)
    assert all(module._fused is None for module in routed_modules(twin))
    with torch.no_grad():
        for p in good_params(twin):
            p.zero_()
    agree()
    model.train()
    assert all(module._fused is None for module in modules)


def test_alpha_over_rank_is_in_the_routes_columns_once():
    """Modules of one size share their columns, whatever alpha is."""
    model = tiny_model()
    modules = apply_dual_lora(model, rank=3, bad_rank=2, alpha=7)
    with routed(model, [Route()] * 3):
        logits(model)
        columns = {id(module.routing) for module in modules}
        assert len(columns) == 1 and len(modules[0].routing._columns) == 1
        ((_, scale),) = modules[0].routing._columns.values()
    torch.testing.assert_close(scale[0, 0], torch.tensor([7 / 3] * 3 + [7 / 2] * 2))


def _with_dropout(adapter_type, trained_layers, checkpointing=False, dropout=0.3):
    """A GPT-2 in fp64 and training mode with dropout.

    It drops out in the residual stream, in attention and in its LoRAs.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        GPT2Config(**{**CONFIGS["gpt2"]().to_dict(), "resid_pdrop": dropout, "attn_pdrop": dropout}),
        dtype=torch.float32,
        attn_implementation="eager",
    )
    if adapter_type == "lora":
        apply_dual_lora(model, 0 if trained_layers else 3, 2, alpha=4, dropout=dropout)
    else:
        apply_mlp_adapter(model, 0 if trained_layers else 3, 2)
    if trained_layers:
        train_last_layers(model, trained_layers)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    model.double().train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _penalised_losses(model, ids, ortho_lambda):
    """[batch]; the recording of cosines has ended when the backward pass begins."""
    with output_cosines(model) as cosines:
        losses = per_example_losses(model, ids)
    assert cosines
    return losses + ortho_lambda * torch.stack(cosines).mean(0).mean(1)


ROUTED = [Route(), Route(update_good=False), Route(0.5, 0.25), Route(update_bad=False, bad_scale=0.0)]


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
@pytest.mark.parametrize("trained_layers", [0, 2])
@pytest.mark.parametrize("ortho_lambda", [0.0, 2.0])
def test_checkpointing_and_dropout_leave_every_example_its_exact_gradient(
    adapter_type, trained_layers, ortho_lambda
):
    """One mixed batch, with and without activation checkpointing, against a loop over examples.

    The loop is ordinary autograd. The loop, too, runs the whole batch forward, for its random numbers.
    """
    ids = torch.randint(2, 400, (len(ROUTED), 9), generator=torch.Generator().manual_seed(0))

    def losses(model):
        torch.manual_seed(7)
        return _penalised_losses(model, ids, ortho_lambda) if ortho_lambda else per_example_losses(model, ids)

    def mixed(model):
        with routed(model, ROUTED):
            found = losses(model)
            found.mean().backward()
        return [p.grad for params in (good_params, bad_params) for p in params(model)], found.detach()

    got, values = mixed(_with_dropout(adapter_type, trained_layers))
    again, same = mixed(_with_dropout(adapter_type, trained_layers, checkpointing=True))
    assert torch.equal(values, same)
    for a, b in zip(got, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    want = [torch.zeros_like(gradient) for gradient in got]
    scales_only = [Route(good_scale=route.good_scale, bad_scale=route.bad_scale) for route in ROUTED]
    for i, route in enumerate(ROUTED):
        alone = _with_dropout(adapter_type, trained_layers)
        with routed(alone, scales_only):
            (losses(alone)[i] / len(ROUTED)).backward()
        own = [(p, route.update_good) for p in good_params(alone)]
        own += [(p, route.update_bad) for p in bad_params(alone)]
        for total, (p, share) in zip(want, own, strict=True):
            total += share * p.grad
    largest = max(gradient.abs().max() for gradient in want if gradient.numel())
    assert largest > 1e-5
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * largest.item())


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_a_renewed_adapter_changes_nothing_and_leaves_the_other_alone(adapter_type):
    model = tiny_model()
    attach(model, adapter_type)
    randomize(model)
    ids = torch.arange(12)[None]
    with ablated(model, "bad"):
        want = model(ids).logits
    good = [parameter.clone() for parameter in good_params(model)]
    old = [parameter.clone() for parameter in bad_params(model)]
    for module in routed_modules(model):
        module.renew("bad")
    torch.testing.assert_close(model(ids).logits, want)
    assert all(map(torch.equal, good, good_params(model)))
    assert not any(torch.equal(a, b) for a, b in zip(old, bad_params(model), strict=True) if b.numel())
