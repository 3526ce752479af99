"""The routed Trainers are exact: their gradients are those of a loop over single examples and rollouts."""

import importlib.util
import itertools
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import REPO, randomize, tiny_model
from datasets import Dataset
from reference import ROUTES, attach, gradients, use_plain_autograd
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    TrainerCallback,
    TrainingArguments,
)

from adapters import Route, ablated, bad_params, good_params
from lab.errors import BadInput
from lab.runs import read_config
from routing.checkpoints import adapter_state, load_checkpoint
from routing.distributed import rank, world_size
from routing.trainer import RoutedTrainer

TABLE = {**ROUTES, "half": Route(0.5, 0.25, 2.0, 0.5)}
LABELS = [None, "bad", "good", "half", "bad", None, "good"]

pytestmark = pytest.mark.usefixtures("unreported", "little_garbage")


@pytest.fixture
def trl():
    pytest.importorskip("trl")
    import routing.trl

    return routing.trl


def make(adapter_type="lora", dtype=torch.float32):
    model = tiny_model()
    attach(model, adapter_type)
    randomize(model)
    return model.to(dtype)


def make_rows(labels=LABELS, seed=0):
    """Rows of other lengths and other numbers of targets."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i, label in enumerate(labels):
        ids = torch.randint(2, 400, (5 + 2 * (i % 4),), generator=generator).tolist()
        start = 1 + i % 3
        rows.append({"input_ids": ids, "labels": [-100] * start + ids[start:], "label": label, "note": "x"})
    return rows


def arguments(folder, cls=TrainingArguments, **more):
    given = {
        "per_device_train_batch_size": 2,
        "learning_rate": 0.0,
        "num_train_epochs": 1,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "seed": 1,
    }
    return cls(output_dir=str(folder), **{**given, **more})


class Watch(TrainerCallback):
    """Keeps each step's gradients, adapters and learning rates."""

    def __init__(self):
        self.gradients, self.adapters, self.rates = [], [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.adapters.append({name: value.detach().clone() for name, value in adapter_state(model).items()})
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def trainer_for(folder, tokenizer, model, rows, cls=RoutedTrainer, routes=TABLE, data_collator=None, **more):
    return cls(
        model,
        arguments(folder, **more),
        train_dataset=rows if isinstance(rows, list) else Dataset.from_list(list(rows)),
        data_collator=data_collator or DataCollatorForSeq2Seq(tokenizer),
        routes=routes,
        callbacks=[Watch()],
    )


def watched(trainer) -> Watch:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Watch))


def masked(found, route):
    """Each adapter's gradient times the route's update mask."""
    return {
        n: g * float(route.update_good if n.endswith("good") else route.update_bad) for n, g in found.items()
    }


def added(parts):
    parts = list(parts)
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def plain_loop(model, rows, routes=TABLE):
    """Ordinary autograd, one unpadded example at a time: each one's loss and masked gradients."""
    losses, found = [], []
    for row in rows:
        route = routes[row["label"]]
        use_plain_autograd(model, [route])
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        loss = F.cross_entropy(model(input_ids=ids).logits[0, :-1], labels[1:])
        loss.backward()
        losses.append(loss.item())
        found.append(masked(gradients(model), route))
    return losses, found


def assert_equal(got, want, tolerance):
    assert got.keys() == want.keys()
    largest = max(gradient.abs().max() for gradient in want.values())
    assert largest > 1e-5
    assert max((got[name] - want[name]).abs().max() for name in want) < tolerance * largest


def assert_steps_are_the_loop(trainer, model, rows, tolerance):
    """Two steps, of 2 + 2 and of 2 + 1 shuffled examples, are means over 4 and 3 of them."""
    trainer.train()
    first, second = watched(trainer).gradients
    got = added([{n: 4 * g for n, g in first.items()}, {n: 3 * g for n, g in second.items()}])
    losses, found = plain_loop(model, rows)
    assert_equal(got, added(found), tolerance)
    assert trainer.evaluate(Dataset.from_list(rows))["eval_loss"] == pytest.approx(sum(losses) / 7, abs=1e-5)


# Llama's norms compute in fp32 even in an fp64 model: 1e-7
@pytest.mark.parametrize(("adapter_type", "checkpointing"), [("lora", True), ("mlp", False)])
def test_gradients_are_those_of_the_plain_loop(tmp_path, tokenizer, adapter_type, checkpointing):
    rows = make_rows()
    trainer = trainer_for(
        tmp_path,
        tokenizer,
        make(adapter_type, torch.float64),
        tuple(rows),
        gradient_accumulation_steps=2,
        gradient_checkpointing=checkpointing,
        # the Trainer is not to clip, only the optimizer
        max_grad_norm=1e-6,
    )
    assert_steps_are_the_loop(trainer, make(adapter_type, torch.float64), rows, 1e-6)


@pytest.mark.parametrize("adapter_type", ["lora", pytest.param("mlp", marks=pytest.mark.slow)])
def test_sft_gradients_are_those_of_the_plain_loop(tmp_path, tokenizer, trl, adapter_type):
    from trl import SFTConfig

    rows = make_rows()
    trainer = trl.RoutedSFTTrainer(
        make(adapter_type),
        arguments(tmp_path, SFTConfig, gradient_accumulation_steps=2, gradient_checkpointing=True),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        routes=TABLE,
        callbacks=[Watch()],
    )
    assert_steps_are_the_loop(trainer, make(adapter_type), rows, 1e-4)
    assert any("mean_token_accuracy" in entry for entry in trainer.state.log_history)


def test_what_no_row_updates_stays_bitwise_and_the_schedule_is_the_trainers(tmp_path, tokenizer):
    """After a step in which good gathered momentum, with weight decay."""
    rows = make_rows([None, None, "bad", "bad", "bad", "bad"])
    trainer = trainer_for(
        tmp_path,
        tokenizer,
        make(),
        rows,
        learning_rate=0.05,
        weight_decay=0.1,
        warmup_steps=1,
        max_grad_norm=0.5,
        lr_scheduler_type="cosine",
        num_train_epochs=2,
        train_sampling_strategy="sequential",
    )
    assert trainer.optimizer is None and trainer.create_optimizer().max_grad_norm == 0.5
    trainer.train()
    # the second epoch begins with rows that update both again
    after = watched(trainer).adapters
    for name in after[0]:
        same = [torch.equal(a[name], b[name]) for a, b in itertools.pairwise(after)]
        # the rate of the very first step is 0
        want = [True, True, False, True, True] if name.endswith("good") else [False] * 5
        assert same == want, name
    rates = watched(trainer).rates
    assert [good for good, bad in rates] == [bad for good, bad in rates]
    assert (
        rates[0][0] == pytest.approx(0.05)
        and rates[-1][0] == pytest.approx(0.0)
        and rates[0] > rates[2] > rates[4]
    )


def test_resuming_goes_on_and_a_checkpoint_is_one_of_the_project(tmp_path, tokenizer, model_folder):
    rows = make_rows(["bad"] * 4 + LABELS + LABELS)

    def train(folder, **more):
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        attach(model, "lora")
        randomize(model)
        given = {"learning_rate": 0.05, "max_steps": 5, "save_strategy": "steps", "save_steps": 2}
        trainer = trainer_for(
            folder, tokenizer, model, rows, train_sampling_strategy="sequential", **given, weight_decay=0.1
        )
        trainer.train(**more)
        return trainer.model

    # good has no optimizer state yet at step 2
    whole = adapter_state(train(tmp_path / "whole"))
    resumed = adapter_state(
        train(tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    )
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
    assert not list((tmp_path / "whole").rglob("model*.safetensors"))
    loaded, _, _ = load_checkpoint(tmp_path / "whole/checkpoint-4")
    assert not all(torch.equal(value, whole[name]) for name, value in adapter_state(loaded).items())
    loaded, _, _ = load_checkpoint(tmp_path / "resumed/checkpoint-5")
    assert all(torch.equal(value, whole[name]) for name, value in adapter_state(loaded).items())


def test_a_checkpoint_over_a_quantised_base_says_so(tmp_path, tokenizer):
    model = tiny_model()
    attach(model, "lora")
    # as bitsandbytes marks it; the rest of quantising needs CUDA
    trainer = trainer_for(tmp_path, tokenizer, model, make_rows())
    model.is_loaded_in_4bit = True
    trainer.save_model(str(tmp_path / "saved"))
    assert read_config(tmp_path / "saved")["constants"]["DTYPE"] == "4bit"


def test_the_best_model_is_loaded_at_the_end(tmp_path, tokenizer):
    """Best is said to be the highest loss here, which the first step has."""
    rows = make_rows()
    given = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    worst = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer = RoutedTrainer(
        make(),
        arguments(tmp_path, learning_rate=0.01, max_steps=2, **given, **worst),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        routes=TABLE,
        callbacks=[Watch()],
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    first, second = watched(trainer).adapters
    for name, value in adapter_state(trainer.model).items():
        assert torch.equal(value, first[name]) and not torch.equal(value, second[name])


def test_labels_that_cannot_be_routed_are_clear_errors(tmp_path, tokenizer):
    unknown, missing = make_rows([None, "ugly"]), [{"input_ids": [2, 3], "labels": [2, 3]}] * 2
    with pytest.raises(BadInput, match="label 'ugly' has no route; `routes` knows None, 'bad'"):
        trainer_for(tmp_path, tokenizer, make(), tuple(unknown))
    for rows, message in [(unknown, "label 'ugly' has no route"), (missing, "no column 'label'")]:
        with pytest.raises(BadInput, match=message):
            trainer_for(tmp_path, tokenizer, make(), rows).train()


def test_padding_free_batches_are_refused(tmp_path, tokenizer):
    trainer = trainer_for(
        tmp_path, tokenizer, make(), make_rows(), data_collator=DataCollatorWithFlattening()
    )
    with pytest.raises(BadInput, match="set packing=False"):
        trainer.train()


def test_sft_packing_is_refused(tmp_path, tokenizer, trl):
    from trl import SFTConfig

    def train(rows, **more):
        args, data = arguments(tmp_path, SFTConfig, max_length=None, **more), Dataset.from_list(rows)
        trl.RoutedSFTTrainer(
            make(), args, train_dataset=data, processing_class=tokenizer, routes=TABLE
        ).train()

    for option in ("packing", "padding_free", "eval_packing"):
        with pytest.raises(BadInput, match="set packing=False"):
            train(make_rows(), **{option: True})
    # packed beforehand
    with pytest.raises(BadInput, match="set packing=False"):
        train([{**row, "seq_lengths": [2, len(row["input_ids"]) - 2]} for row in make_rows()])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"optim": "sgd"}, "another optimizer"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "reentrant",
        ),
        ({"routes": {}}, "give routes"),
    ],
)
def test_what_would_be_ignored_or_wrong_is_refused(tmp_path, tokenizer, more, message):
    with pytest.raises(BadInput, match=message):
        trainer_for(tmp_path, tokenizer, make(), make_rows(), **more)


def test_other_trained_parameters_are_refused(tmp_path, tokenizer):
    model = make()
    model.get_input_embeddings().weight.requires_grad = True
    with pytest.raises(BadInput, match="freeze the rest"):
        trainer_for(tmp_path, tokenizer, model, make_rows())


def test_without_trl(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "trl", None)
    spec = importlib.util.spec_from_file_location("without_trl", REPO / "routing/trl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.RoutedTrainer is RoutedTrainer
    with pytest.raises(ImportError, match="uv sync --group rl"):
        module.RoutedSFTTrainer(make(), arguments(tmp_path), routes=TABLE)
    with pytest.raises(ImportError, match="uv sync --group rl"):
        module.RoutedGRPOTrainer(make(), len, arguments(tmp_path), routes=TABLE)


def test_the_snippet_runs(trl, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(REPO / "snippets/sft_trainer.py"), run_name="__main__")
    printed = re.findall(r"loss on (\w+): ([\d.]+), bad ablated: ([\d.]+)", capsys.readouterr().out)
    losses = {name: (float(full), float(ablated)) for name, full, ablated in printed}
    # measured: 0.03 and 0.1, 7.7
    assert losses["normal"][1] < 1 < losses["capitals"][1] - losses["capitals"][0]
    assert list(tmp_path.iterdir()) == []


PROMPTS = ["Tom ran to the", "Once upon a time", "The cat", "A bird sang in the"]


def uneven_reward(completions, **kwargs):
    return [float(sum(map(ord, completion)) % 7) for completion in completions]


def label_bad(prompts, completions, rewards, rows):
    """Those of the unlabelled rows' rollouts that have the highest reward."""
    rewards = rewards[:, 0].tolist()
    assert len(prompts) == len(rows) and rewards == uneven_reward(completions)
    unlabelled = [row["label"] is None for row in rows]
    highest = max(itertools.compress(rewards, unlabelled), default=None)
    return ["bad" if own and r == highest else None for r, own in zip(rewards, unlabelled, strict=True)]


def grpo(trl, folder, tokenizer, model, row_labels, reward=uneven_reward, routes=TABLE, **more):
    from trl import GRPOConfig

    ours = {name: more.pop(name) for name in ("label_rollouts", "reference_without") if name in more}
    given = {"per_device_train_batch_size": 4, "num_generations": 2, "gradient_accumulation_steps": 2}
    rows = [{"prompt": p, "label": label} for p, label in zip(PROMPTS, row_labels, strict=True)]
    return trl.RoutedGRPOTrainer(
        model,
        reward,
        arguments(folder, GRPOConfig, **{**given, "max_completion_length": 6, **more}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        routes=routes,
        callbacks=[Watch()],
        **ours,
    )


def rollouts(trainer):
    """(one rollout alone, its route) of all that the last step was trained on."""
    known = list(trainer.routes.values())
    for batch in trainer._buffered_inputs:
        for i, number in enumerate(batch["route"].tolist()):
            yield {key: v[i : i + 1] if v.ndim else v for key, v in batch.items()}, known[number]


@pytest.mark.parametrize(("adapter_type", "loss_type"), [("lora", "dapo"), ("mlp", "grpo")])
def test_grpo_gradients_are_those_of_single_rollouts(tmp_path, tokenizer, trl, adapter_type, loss_type):
    """With labels from rows and from rewards, and a KL term against the model without its adapters."""
    from trl import GRPOTrainer

    trainer = grpo(
        trl,
        tmp_path,
        tokenizer,
        make(adapter_type),
        [None, "good", None, "half"],
        label_rollouts=label_bad,
        loss_type=loss_type,
        beta=0.2,
        max_steps=1,
        gradient_checkpointing=True,
    )
    trainer.train()
    (got,) = watched(trainer).gradients
    model, bare, found, used = trainer.model, tiny_model(), [], []
    for rollout, route in rollouts(trainer):
        used.append(route)
        ids = torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], 1)
        attention = torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], 1)
        with torch.no_grad():
            logps = bare(ids, attention_mask=attention).logits.log_softmax(-1)[:, :-1]
            logps = logps.gather(-1, ids[:, 1:, None])[..., 0][:, -rollout["completion_ids"].shape[1] :]
        mask = rollout["completion_mask"].bool()
        torch.testing.assert_close(rollout["ref_per_token_logps"][mask], logps[mask], atol=1e-4, rtol=1e-4)
        use_plain_autograd(model, [route])
        # TRL's own loss; a mean over the batch's 4 rollouts, if it is one
        (GRPOTrainer._compute_loss(trainer, model, rollout) / (4 if loss_type == "grpo" else 1)).backward()
        found.append(masked(gradients(model), route))
    assert_equal(got, added(found), 1e-4)
    assert {TABLE["bad"], TABLE["good"], TABLE["half"]} <= set(used)


def test_rollouts_are_sampled_and_scored_at_their_rows_scales(tmp_path, tokenizer, trl):
    """Greedy, so that it can be done again.

    With two passes over the rollouts, so that TRL keeps their old log-probs.
    """
    from trl import GRPOTrainer

    seen = []

    def reward(prompts, completion_ids, label, **kwargs):
        seen.extend(zip(prompts, completion_ids, label, strict=True))
        return [0.0] * len(prompts)

    trainer = grpo(
        trl,
        tmp_path,
        tokenizer,
        make(),
        [None, "good", "good", None],
        reward,
        num_iterations=2,
        max_steps=1,
        beta=0.1,
        reference_without="bad",
        generation_kwargs={"do_sample": False},
    )
    trainer.train()
    differing = 0
    for prompt, completion, label in seen:
        inputs = tokenizer(prompt, return_tensors="pt")
        again = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 1}
        full = trainer.model.generate(**inputs, **again)[0, inputs["input_ids"].shape[1] :].tolist()
        with ablated(trainer.model, "bad"):
            good = trainer.model.generate(**inputs, **again)[0, inputs["input_ids"].shape[1] :].tolist()
        assert completion == (good if label == "good" else full)[: len(completion)]
        differing += good != full
    assert differing > 4
    for rollout, route in rollouts(trainer):
        ids, mask = (
            torch.cat([rollout[f"prompt_{part}"], rollout[f"completion_{part}"]], 1)
            for part in ("ids", "mask")
        )

        def logps(route, ids=ids, mask=mask, kept=rollout["completion_ids"].shape[1]):
            use_plain_autograd(trainer.model, [route])
            return GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, mask, kept)[0]

        torch.testing.assert_close(rollout["old_per_token_logps"], logps(route), atol=1e-4, rtol=1e-4)
        reference = logps(Route(bad_scale=0.0))
        torch.testing.assert_close(rollout["ref_per_token_logps"], reference, atol=1e-4, rtol=1e-4)


def test_grpo_moves_only_what_its_rollouts_update(tmp_path, tokenizer, trl):
    model = make()
    good, bad = ([p.detach().clone() for p in params(model)] for params in (good_params, bad_params))
    trainer = grpo(
        trl,
        tmp_path,
        tokenizer,
        model,
        [None] * 4,
        label_rollouts=lambda prompts, *_: ["bad"] * len(prompts),
        learning_rate=0.01,
        weight_decay=0.1,
        max_steps=2,
    )
    trainer.train()
    assert all(map(torch.equal, good, good_params(model)))
    assert not any(map(torch.equal, bad, bad_params(model)))
    assert "eval_loss" in trainer.evaluate(trainer.train_dataset)


def test_labels_of_rollouts_that_do_not_fit_are_clear_errors(tmp_path, tokenizer, trl):
    trainer = grpo(trl, tmp_path, tokenizer, make(), [None] * 4, max_steps=1)
    for given, message in [
        (["good"] * 8, "would be off-policy"),
        (["ugly"] * 8, "label 'ugly' has no route"),
        ([None], "returned 1 labels for 8 rollouts"),
    ]:
        trainer.label_rollouts = lambda *_, given=given: given
        with pytest.raises(BadInput, match=message):
            trainer.train()


def test_grpo_refuses_a_second_model_and_other_engines(tmp_path, tokenizer, trl):
    for more in ({"use_transformers_continuous_batching": True}, {"sync_ref_model": True, "beta": 0.1}):
        with pytest.raises(ValueError, match=next(iter(more))):
            grpo(trl, tmp_path, tokenizer, make(), [None] * 4, **more)
    with pytest.raises(ValueError, match="which adapter"):
        grpo(trl, tmp_path, tokenizer, make(), [None] * 4, reference_without="ugly")


def train_on_several(folder):
    """Under torchrun, or alone: a RoutedTrainer, and a few steps of GRPO."""
    import routing.trl

    tokenizer, size = AutoTokenizer.from_pretrained(folder), world_size()
    # of two processes, the second one has no row that updates good
    rows = make_rows([None, "good", "bad", "bad"] * 4)
    given = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4 // size}
    trainer = trainer_for(
        folder / f"out{size}",
        tokenizer,
        make(),
        tuple(rows),
        learning_rate=0.01,
        train_sampling_strategy="sequential",
        per_device_eval_batch_size=2,
        **given,
    )
    trainer.train()
    loss = trainer.evaluate(Dataset.from_list(rows))["eval_loss"]
    found = {"trainer": adapter_state(trainer.model), "loss": loss}
    if size > 1:
        trainer = grpo(
            routing.trl,
            folder / "grpo",
            tokenizer,
            make(),
            [None, "good", None, "half"],
            label_rollouts=label_bad,
            learning_rate=0.01,
            max_steps=2,
            beta=0.1,
            per_device_train_batch_size=2,
        )
        trainer.train()
        assert trainer.state.global_step == 2
        found["grpo"] = adapter_state(trainer.model)
    torch.save(found, folder / f"{rank()}of{size}.pt")


@pytest.mark.slow
def test_two_processes(tmp_path, tokenizer, trl):
    """They train as one does; and rollouts of their own leave both with the same adapters."""
    from test_distributed import torchrun

    tokenizer.save_pretrained(tmp_path)
    torchrun(__file__, tmp_path)
    train_on_several(tmp_path)
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("0of1", "0of2", "1of2"))
    for name, value in one["trainer"].items():
        torch.testing.assert_close(first["trainer"][name], value, rtol=0, atol=1e-6)
        assert torch.equal(first["trainer"][name], second["trainer"][name])
        assert torch.equal(first["grpo"][name], second["grpo"][name])
    assert first["loss"] == pytest.approx(one["loss"], abs=1e-6)


if __name__ == "__main__":
    os.environ["CI"] = "1"
    train_on_several(Path(sys.argv[1]))
