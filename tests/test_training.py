"""Labels, batches, the loss, the optimizer, and resuming."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from conftest import randomize, tiny_model
from reference import ROUTES, attach

from adapters import Route, ablated, bad_params, good_params, routed
from all_caps.stories import load_stories, to_examples
from lab.errors import BadInput
from lab.labels import pick
from lab.logs import read_log
from lab.runs import Run
from routing import probes
from routing.batches import IGNORE, Example, batch_order, collate, make_example
from routing.checkpoints import load_adapters, save_checkpoint
from routing.classifier import label_classified
from routing.detection import label_detected
from routing.losses import example_losses, held_out_losses
from routing.optimizer import RoutedOptimizer
from routing.probes import TrainingLog, probe
from routing.stream import cosine_schedule, training_stream

CPU = torch.device("cpu")
CONSTANTS = {"MODEL_NAME": "tiny", "MAX_STEPS": 8, "SEED": 0}


def make_model(adapter_type="lora"):
    model = tiny_model()
    attach(model, adapter_type)
    randomize(model)
    return model.train()


def random_examples(n=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 12, (n,), generator=generator).tolist()
    labels = [None, "bad", "good"]
    return [
        Example(
            torch.randint(2, 400, (length,), generator=generator).tolist(),
            1,
            labels[i % 3],
            str(labels[i % 3]),
        )
        for i, length in enumerate(lengths)
    ]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 10), (0.126, 13), (0.5, 50), (1.0, 100)])
def test_pick_is_exact_and_nested(share, count):
    picked = pick(range(100), share, seed=3, purpose="X")
    assert len(picked) == len(set(picked)) == count
    assert set(picked) <= set(pick(range(100), 1.0, seed=3, purpose="X")[: max(count, 50)])
    assert picked == pick(range(100), share, seed=3, purpose="X")


def test_pick_depends_on_seed_and_purpose():
    picks = {tuple(pick(range(100), 0.5, seed, purpose)) for seed in (0, 1) for purpose in ("X", "Y")}
    assert len(picks) == 4


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_an_error(share):
    with pytest.raises(BadInput, match="LABELED_BAD_PERCENTAGE"):
        pick(range(10), share, 0, "LABELED_BAD_PERCENTAGE")


def test_prompt_is_masked_by_construction_and_eos_is_a_target(tokenizer):
    example = make_example(tokenizer, "Once upon", " a time", 50)
    batch = collate([example, make_example(tokenizer, "", "One two three four five six", 50)], CPU)
    targets = batch.targets[0][batch.targets[0] != IGNORE]
    assert tokenizer.decode(targets) == " a time</s>"  # pad is EOS here, and the true EOS still counts
    assert batch.input_ids[0, 0] == tokenizer.bos_token_id
    second = batch.targets[1][batch.targets[1] != IGNORE]
    assert tokenizer.decode(second) == "One two three four five six</s>"
    cut = make_example(tokenizer, "", "One two three four five six", 4)
    assert len(cut.ids) == 4 and tokenizer.eos_token_id not in cut.ids


@pytest.mark.parametrize(
    ("prompt", "response", "length"), [("", "", 9), ("", "a", 9), ("Once upon a time there", "was one", 3)]
)
def test_examples_without_a_target_are_an_error(tokenizer, prompt, response, length):
    with pytest.raises(BadInput):
        make_example(tokenizer, prompt, response, length)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_loss_equals_transformers_own_on_unpadded_rows(tokenizer, family):
    model = tiny_model(family)
    texts = [
        ("", "Once upon a time there was a dog."),
        ("Tell me: ", "no."),
        ("A", " much, much longer text than the others."),
    ]
    examples = [make_example(tokenizer, prompt, response, 64) for prompt, response in texts]
    with torch.no_grad():
        ours = example_losses(model, collate(examples, CPU))
        for loss, example in zip(ours, examples, strict=True):
            ids = torch.tensor([example.ids])
            labels = ids.clone()
            labels[0, : example.prompt_length] = -100
            torch.testing.assert_close(loss, model(input_ids=ids, labels=labels).loss, rtol=1e-4, atol=1e-5)


def test_batch_order_covers_each_epoch_and_buckets_by_length():
    lengths = [5 + (i * 37) % 60 for i in range(320)]
    order = batch_order(lengths, batch_size=8, steps=60, seed=0)
    flat = [i for batch in order for i in batch]
    assert [len(batch) for batch in order] == [8] * 60
    counts = [flat.count(i) for i in range(320)]
    assert sum(counts) == 480 and set(counts) == {1, 2}
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in order]
    assert sum(spread) / len(spread) < 10  # at random it would be about 50
    assert order == batch_order(lengths, 8, 60, seed=0) != batch_order(lengths, 8, 60, seed=1)


@pytest.mark.parametrize("max_length", [64, 256])
def test_length_bucketing_does_not_collect_the_capitals(tokenizer, max_length):
    """Capitals take more tokens.

    Sorted by tokens they would fill batches of their own, and no batch would be mixed.
    """
    stories = load_stories("embedded:stories", limit=600).train
    caps = pick(range(len(stories)), 0.1, 0, "CAPS_PERCENTAGE")
    examples = to_examples(stories, tokenizer, max_length, in_caps=caps, labels={"bad": caps[:30]})
    order = batch_order([example.bucket_size for example in examples], 8, 75, seed=0)
    counts = torch.tensor(
        [sum(examples[i].kind != "normal" for i in batch) for batch in order], dtype=torch.float
    )
    assert (
        counts.sum() == 60 and counts.var() < 1.2
    )  # at random: 8 * 0.1 * 0.9 = 0.72; sorted by tokens: about 5


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_an_adapter_that_no_example_updates_does_not_move(adapter_type):
    """Bitwise, under AdamW with momentum and weight decay, and its optimizer state stands still as well."""
    model = make_model(adapter_type)
    optimizer = RoutedOptimizer(model, lr=0.1, weight_decay=0.1)

    def step(label):
        before = {
            "good": [p.clone() for p in good_params(model)],
            "bad": [p.clone() for p in bad_params(model)],
        }
        batch = collate(random_examples()[:4], CPU)
        with routed(model, [ROUTES[label]] * 4):
            example_losses(model, batch).mean().backward()
        optimizer.step()
        return [
            any(not torch.equal(old, new) for old, new in zip(before[slot], params(model), strict=True))
            for slot, params in (("good", good_params), ("bad", bad_params))
        ]

    assert step(None) == [True, True]  # builds up momentum in both
    state = {id(p): {k: v.clone() for k, v in optimizer.state[p].items()} for p in good_params(model)}
    assert step("bad") == [False, True]
    assert all(
        torch.equal(optimizer.state[p][k], v) for p in good_params(model) for k, v in state[id(p)].items()
    )
    assert step("good") == [True, False]


def test_batch_of_one_is_two_adamw_with_only_the_permitted_stepping():
    ours, theirs = make_model(), make_model()
    optimizer = RoutedOptimizer(ours, lr=1e-2, weight_decay=0.1, max_grad_norm=1.0)
    separate = {
        slot: torch.optim.AdamW(params(theirs), lr=1e-2, weight_decay=0.1)
        for slot, params in (("good", good_params), ("bad", bad_params))
    }
    permitted = {None: ("good", "bad"), "bad": ("bad",), "good": ("good",)}
    for example in random_examples(9):
        batch = collate([example], CPU)
        with routed(ours, [ROUTES[example.label]]):
            example_losses(ours, batch).mean().backward()
        optimizer.step()
        with routed(theirs, [Route(bad_scale=ROUTES[example.label].bad_scale)]):
            example_losses(theirs, batch).mean().backward()
        for slot in permitted[example.label]:
            torch.nn.utils.clip_grad_norm_(separate[slot].param_groups[0]["params"], 1.0)
            separate[slot].step()
        theirs.zero_grad()
    for a, b in zip(
        good_params(ours) + bad_params(ours), good_params(theirs) + bad_params(theirs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_schedule_and_clipping():
    model = make_model()
    optimizer = RoutedOptimizer(model, lr=1.0, max_grad_norm=1e-3)
    factors = [cosine_schedule(step, 12, warmup_steps=4) for step in range(13)]
    assert (
        factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and factors[8] == pytest.approx(0.5) and factors[12] == 0
    )
    with routed(model, [Route()] * 4):
        example_losses(model, collate(random_examples()[:4], CPU)).mean().backward()
    optimizer.step()
    assert min(optimizer.grad_norms.values()) > 1e-2  # norms are those before clipping


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_orthogonality_loss_lowers_the_cosine_and_ignores_padding(adapter_type):
    model = make_model(adapter_type)
    batch = collate(random_examples()[:4], CPU)
    wide = collate([*random_examples()[:4], Example(list(range(2, 40)), 1)], CPU).select(range(4))
    values = {}
    for name, each in (("narrow", batch), ("wide", wide)):
        with_penalty = example_losses(model, each, ortho_lambda=1.0)
        values[name] = (with_penalty - example_losses(model, each)).mean().item()
    assert values["narrow"] > 0.01 and values["narrow"] == pytest.approx(values["wide"], rel=1e-4)
    optimizer = RoutedOptimizer(model, lr=1e-2)
    readings = []
    for _ in range(15):
        readings.append(probe(model, batch, ROUTES, "bad")["orthogonality"])
        with routed(model, [ROUTES[label] for label in batch.labels]):
            example_losses(model, batch, ortho_lambda=10.0).mean().backward()
        optimizer.step()
    assert readings[-1] < 0.5 * readings[0]


def test_probe_reads_where_the_gradient_goes_and_leaves_no_gradient():
    model = make_model()
    batch = collate(random_examples()[:6], CPU)
    assert probe(model, batch, ROUTES, "bad")["bad_share"] == 1.0  # labelled bad: all of it
    assert probe(model, batch, ROUTES, "good")["bad_share"] == 0.0
    assert 0 < probe(model, batch, ROUTES, "None")["bad_share"] < 1
    nothing = probe(model, batch, ROUTES, "no such kind")
    assert nothing["bad_share"] is None and nothing["bad_saves"] is None
    # where bad is ablated it saves nothing; elsewhere what its absence costs
    assert probe(model, batch, ROUTES, "good")["bad_saves"] == 0.0
    rows = batch.select([i for i, kind in enumerate(batch.kinds) if kind == "bad"])
    with torch.no_grad():
        active = example_losses(model, rows).mean().item()
        with ablated(model, "bad"):
            without = example_losses(model, rows).mean().item()
    assert probe(model, batch, ROUTES, "bad")["bad_saves"] == pytest.approx(without - active) != 0
    assert all(p.grad is None for p in model.parameters())


def test_what_is_held_out_is_measured_without_dropout():
    """A cell that is interrupted leaves the model in training mode."""
    model = make_model()
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.5
    examples = random_examples()[:6]
    wanted = held_out_losses(model.eval(), examples, Route())
    assert held_out_losses(model.train(), examples, Route()) == wanted and model.training


def test_the_probe_looks_at_a_few_examples(monkeypatch):
    """However large the batch is: with gradients it takes memory, and MICRO_BATCH_SIZE is not for it."""
    seen = []
    real = probes.example_losses
    monkeypatch.setattr(probes, "example_losses", lambda *a: seen.append(len(a[1].labels)) or real(*a))
    batch = collate([replace(example, kind="odd") for example in random_examples()[:12]], CPU)
    readings = probe(make_model(), batch, ROUTES, "odd")
    assert None not in readings.values() and max(seen) == 4


def test_probe_draws_no_random_numbers():
    """Otherwise PROBE_EVERY would change what a run with dropout learns."""
    model = tiny_model()
    attach(model, "lora", dropout=0.5)
    before = torch.get_rng_state()
    probe(model.train(), collate(random_examples()[:6], CPU), ROUTES, "bad")
    assert torch.equal(torch.get_rng_state(), before) and model.training


def test_held_out_losses_keep_their_order_and_do_not_depend_on_the_batch():
    model = make_model().eval()
    examples = random_examples(7)
    together = held_out_losses(model, examples, Route(), batch_size=3)
    alone = [held_out_losses(model, [example], Route())[0] for example in examples]
    assert together == pytest.approx(alone, rel=1e-5) and len(set(alone)) == 7


def a_run(folder, **constants):
    return Run("mine", folder, {**CONSTANTS, "RESUME": False, "SAVE_EVERY": 3, **constants})


def train(run, *, stop_after=None, interrupt_at=None, micro=0):
    """Eight steps with dropout.

    Optionally leave after `stop_after` steps (as a kill would), or send SIGTERM in a step.
    """
    torch.manual_seed(0)
    model = tiny_model()
    attach(model, "lora", dropout=0.2)
    optimizer = RoutedOptimizer(model, lr=1e-2, weight_decay=0.1)
    log = TrainingLog(run, 8)
    for step, batch in training_stream(run, model.train(), optimizer, random_examples(), 4, 8, 2):
        for part in batch.split(micro):
            with routed(model, [ROUTES[label] for label in part.labels]):
                losses = example_losses(model, part)
                (losses.sum() / len(batch)).backward()
            log.add(part, losses)
        if step == interrupt_at:
            os.kill(os.getpid(), signal.SIGTERM)
        optimizer.step()
        log.write(step, optimizer, {})
        if step + 1 == stop_after:
            break
    return model


@pytest.mark.parametrize("how", [{"stop_after": 5}, {"interrupt_at": 4}])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, how):
    whole, cut = a_run(tmp_path / "whole"), a_run(tmp_path / "cut")
    want = train(whole)
    if "interrupt_at" in how:
        with pytest.raises(KeyboardInterrupt, match="after step 5"):
            train(cut, **how)
    else:
        train(cut, **how)
    got = train(a_run(tmp_path / "cut", RESUME=True))
    for a, b in zip(good_params(want) + bad_params(want), good_params(got) + bad_params(got), strict=True):
        assert torch.equal(a, b)
    strip = [
        [
            {k: v for k, v in line.items() if k != "tokens_per_s"}
            for line in read_log(run.results / "train.jsonl")
        ]
        for run in (whole, cut)
    ]
    assert strip[0] == strip[1] and len(strip[0]) == 8


def test_resuming_with_other_constants_other_data_or_nothing(tmp_path, capsys):
    model = make_model()
    optimizer = RoutedOptimizer(model, lr=1e-2)

    def stream(examples=None, resume=True, **constants):
        run = a_run(tmp_path, SAVE_EVERY=1, RESUME=resume, **constants)
        return training_stream(run, model, optimizer, examples or random_examples(), 4, 8)

    next(iter(stream()))
    assert "nothing to resume" in capsys.readouterr().out
    steps = iter(stream(resume=False))
    next(steps), next(steps)
    with pytest.raises(BadInput, match="SEED was 0, is 1"):
        next(iter(stream(SEED=1)))
    relabelled = [replace(example, label=None) for example in random_examples()]
    with pytest.raises(BadInput, match="other examples"):
        next(iter(stream(relabelled)))
    assert next(iter(stream()))[0] == 1
    # DTYPE="auto" may come to another one on a busy machine; and a local base may have been replaced
    model.bfloat16()
    with pytest.raises(
        BadInput, match=r"other dtype .float32, here bfloat16.; give DTYPE the one that it was"
    ):
        next(iter(stream()))
    model.float()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(2)
    with pytest.raises(BadInput, match="a base with other weights"):
        next(iter(stream()))


def test_a_run_killed_before_its_first_save_is_not_taken_for_the_older_one_of_its_name(tmp_path):
    """A finished run, started again and killed in its first step.

    RESUME=True starts again, it does not evaluate the old one.
    """
    run = a_run(tmp_path)
    model = train(run)
    save_checkpoint(run, model, random_examples())
    train(run, stop_after=1)
    model = make_model()
    resumed = a_run(tmp_path, RESUME=True)
    stream = training_stream(resumed, model, RoutedOptimizer(model, 1e-2), random_examples(), 4, 8)
    assert next(iter(stream))[0] == 0


def test_an_interrupted_run_of_other_constants_is_not_overwritten(tmp_path):
    """Of the run itself and of a part of it; the one that is there can still go on."""
    for run in (a_run(tmp_path), a_run(tmp_path).part("before")):
        train(run, stop_after=5)
        other = replace(run, constants={**run.constants, "LEARNING_RATE": 0.5})
        with pytest.raises(BadInput, match=r"LEARNING_RATE was None, is 0\.5.*RUN_NAME"):
            train(other)
        resumed = replace(run, constants={**run.constants, "RESUME": True})
        stream = training_stream(
            resumed, make_model(), RoutedOptimizer(make_model(), 1e-2), random_examples(), 4, 8
        )
        assert next(iter(stream))[0] > 0


def test_a_finished_run_is_not_trained_again_whatever_its_number_of_steps(tmp_path):
    """MAX_STEPS is 8; the finetuning behind it may have more (post-ablation)."""
    run = a_run(tmp_path)
    model = make_model()
    save_checkpoint(run, model, random_examples())
    before = [p.clone() for p in good_params(model)]
    resumed = a_run(tmp_path, RESUME=True)
    stream = training_stream(resumed, model, RoutedOptimizer(model, 1e-2), random_examples(), 4, 20)
    assert list(stream) == []
    assert all(torch.equal(a, b) for a, b in zip(before, good_params(model), strict=True))


def test_accumulating_gradients_over_parts_is_the_whole_batch():
    model = make_model().double()
    batch = collate(random_examples()[:7], CPU)
    found = {}
    for size in (0, 1, 3, 7, 50):
        for part in batch.split(size):
            with routed(model, [ROUTES[label] for label in part.labels]):
                (example_losses(model, part).sum() / len(batch)).backward()
        found[size] = [p.grad.clone() for p in good_params(model) + bad_params(model)]
        model.zero_grad()
    assert [len(part) for part in batch.split(3)] == [3, 3, 1]
    for size in (1, 3, 7, 50):
        for a, b in zip(found[0], found[size], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_the_run_with_one_message_and_moves_nothing(tmp_path, value):
    model = make_model()
    optimizer = RoutedOptimizer(model, lr=1e-2)
    before = [p.clone() for p in good_params(model) + bad_params(model)]
    stream = training_stream(a_run(tmp_path), model, optimizer, random_examples(), 4, 8)
    for _, batch in stream:
        with routed(model, [ROUTES[label] for label in batch.labels]):
            (example_losses(model, batch).mean() * value).backward()
        with pytest.raises(BadInput, match=r"step 0 \(examples: .*bad.*\): the gradient of the good adapter"):
            optimizer.step()
        break
    after = good_params(model) + bad_params(model)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (tmp_path / "checkpoints/mine/training_state.pt").exists()


def test_an_error_in_a_notebook_cell_does_not_leave_signals_swallowed(tmp_path):
    """The traceback keeps the suspended stream alive, as a notebook does.

    Ctrl-C must work in the next cell.
    """
    model = make_model()
    stream = training_stream(a_run(tmp_path), model, RoutedOptimizer(model, 1e-2), random_examples(), 4, 8)

    def cell():
        for _ in stream:
            raise RuntimeError("in the loop")

    try:
        cell()
    except RuntimeError as error:
        kept = error
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    stream.close()
    assert kept and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_optimizer_refuses_a_closure():
    with pytest.raises(ValueError, match="closure"):
        RoutedOptimizer(make_model(), lr=1e-2).step(lambda: 0.0)


def test_the_learning_rate_of_each_adapter_follows_the_schedule_and_is_logged(tmp_path):
    run = a_run(tmp_path)
    train(run)
    lines = read_log(run.results / "train.jsonl")
    assert [line["learning_rate"]["bad"] for line in lines[:3]] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert lines[-1]["learning_rate"]["good"] == pytest.approx(1e-2 * cosine_schedule(7, 8, 2))


@pytest.mark.parametrize("adapter_type", ["lora", "mlp"])
def test_saved_and_loaded_adapters_give_the_same_logits(tmp_path, adapter_type):
    model, fresh = make_model(adapter_type), tiny_model()
    attach(fresh, adapter_type)
    run = a_run(tmp_path)
    save_checkpoint(run, model, random_examples())
    config = load_adapters(run.checkpoint, fresh)
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, fresh(input_ids=ids).logits)
    assert (
        config["constants"] == run.constants
        and config["base_dtype"] == "float32"
        and "torch" in config["versions"]
    )
    assert sorted(path.name for path in run.checkpoint.iterdir()) == ["adapter.safetensors", "config.json"]


def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    save_checkpoint(a_run(tmp_path), make_model("lora"), random_examples())
    tmp_path = a_run(tmp_path).checkpoint
    for adapter_type, family in [("mlp", "llama"), ("lora", "gpt2")]:
        other = tiny_model(family)
        attach(other, adapter_type)
        before = [p.clone() for p in good_params(other)]
        with pytest.raises(BadInput, match="does not fit this model"):
            load_adapters(tmp_path, other)
        assert all(torch.equal(a, b) for a, b in zip(before, good_params(other), strict=True))
    same_shapes = tiny_model(seed=1)  # the same names and shapes, other base weights
    attach(same_shapes, "lora")
    with pytest.raises(BadInput, match="base weights are others"):
        load_adapters(tmp_path, same_shapes)
    (tmp_path / "adapter.safetensors").write_bytes(b"torn")
    with pytest.raises(BadInput, match="not of one run"):
        load_adapters(tmp_path, make_model("lora"))
    (tmp_path / "config.json").write_text(json.dumps({"torn": 1})[:5])
    with pytest.raises(BadInput, match="not valid JSON"):
        load_adapters(tmp_path, make_model("lora"))
    with pytest.raises(BadInput, match="no checkpoint here"):
        load_adapters(tmp_path / "nowhere", make_model("lora"))


def test_bad_by_itself_tells_which_others_are_like_the_labelled():
    """What is odd goes on in one way. A quarter of it is labelled."""
    torch.manual_seed(0)
    model = tiny_model()
    attach(model, "lora")
    model.train()
    random = torch.Generator().manual_seed(0)

    def example(label: str | None, kind: str) -> Example:
        ids = torch.randint(2, 300, (12,), generator=random).tolist()
        return Example([0, *ids[:2], *(range(300, 310) if kind == "odd" else ids[2:])], 1, label, kind)

    examples = [example(None, "normal") for _ in range(40)] + [example("good", "odd")] * 2
    examples += [example("bad" if i < 10 else None, "odd") for i in range(40)]
    good = [parameter.clone() for parameter in good_params(model)]
    state = torch.get_rng_state()
    found = label_detected(model, examples, steps=60, batch_size=4, learning_rate=1e-2, seed=0)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(torch.equal(a, b) for a, b in zip(good, good_params(model), strict=True))
    assert [e.ids for e in found] == [e.ids for e in examples]
    changed = [(old, new) for old, new in zip(examples, found, strict=True) if old.label != new.label]
    assert {(old.label, old.kind, new.label) for old, new in changed} == {(None, "odd", "detected")}
    # of 30: the labelled ones themselves do not all reach the threshold
    assert 20 <= len(changed) <= 30
    with pytest.raises(BadInput, match="4 labelled examples or more, not 3"):
        label_detected(model, examples[:45], 1, 4, 1e-3, 0)


def test_a_classifier_finds_unlabelled_examples_by_their_words():
    """Half of the odd ones are labelled; with labels for the others as well, and without."""
    random = torch.Generator().manual_seed(0)

    def example(label: str | None, kind: str) -> Example:
        words = torch.randint(2, 300, (12,), generator=random).tolist()
        return Example([0, *words[:6], *(range(300, 306) if kind == "odd" else words[6:])], 1, label, kind)

    unlabelled = [example(None, "odd") for _ in range(10)] + [example(None, "normal") for _ in range(40)]
    for good in ([], [example("good", "normal") for _ in range(20)]):
        examples = [example("bad", "odd") for _ in range(10)] + good + unlabelled
        found = label_classified(examples)
        assert [e.ids for e in found] == [e.ids for e in examples]
        ends = [e.label for e in found]
        assert ends[: -len(unlabelled)] == ["bad"] * 10 + ["good"] * len(good)
        assert ends[-50:-40] == ["detected"] * 10 and ends[-40:].count("detected") <= 6
    with pytest.raises(BadInput, match="labelled, and others"):
        label_classified(unlabelled)
