"""Batched sampling equals sampling one by one; modes are paired."""

import pytest
import torch
from conftest import randomize, tiny_model
from reference import attach
from transformers import GenerationConfig

from adapters import Route, ablated
from routing.generation import MODES, PairedSampling, sample_modes, stop_ids, until

PROMPTS = ["Once", "The little dog went to the market with", "", "ONE DAY A"]


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3", "gemma3"])
def model(request):
    model = tiny_model(request.param)
    attach(model, "lora")
    randomize(model)
    return model


def greedy_one_by_one(model, tokenizer, prompt, steps):
    """Without a cache, a batch, or generate(): argmax of a plain forward, token by token."""
    ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
    start = len(ids)
    for _ in range(steps):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        if logits.argmax() == tokenizer.eos_token_id:
            break
        ids.append(int(logits.argmax()))
    return tokenizer.decode(ids[start:])


def test_batched_greedy_equals_one_by_one_in_every_mode(model, tokenizer):
    got = sample_modes(model, tokenizer, PROMPTS, MODES, max_new_tokens=8, temperature=0)
    for mode, which in {"bad_ablated": "bad", "good_ablated": "good", "base": "both"}.items():
        with ablated(model, which):
            assert got[mode] == [greedy_one_by_one(model, tokenizer, prompt, 8) for prompt in PROMPTS]
    assert got["full"] == [greedy_one_by_one(model, tokenizer, prompt, 8) for prompt in PROMPTS]
    assert len({tuple(texts) for texts in got.values()}) == 4  # the modes do differ


def test_a_completion_does_not_depend_on_the_batch_and_modes_share_their_noise(model, tokenizer):
    together = sample_modes(model, tokenizer, PROMPTS, MODES, max_new_tokens=8, seed=5)
    parted = sample_modes(model, tokenizer, PROMPTS, MODES, max_new_tokens=8, seed=5, batch_size=1)
    assert together == parted
    twins = sample_modes(model, tokenizer, PROMPTS, {"a": Route(), "b": Route()}, max_new_tokens=8, seed=5)
    assert twins["a"] == twins["b"] == together["full"]
    assert together != sample_modes(model, tokenizer, PROMPTS, MODES, max_new_tokens=8, seed=6)


def test_the_models_own_generation_settings_do_not_interfere(model, tokenizer):
    want = sample_modes(model, tokenizer, PROMPTS, MODES, max_new_tokens=8, temperature=0)
    before = model.generation_config
    model.generation_config = GenerationConfig(repetition_penalty=5.0, suppress_tokens=list(range(9)))
    assert sample_modes(model, tokenizer, PROMPTS, MODES, max_new_tokens=8, temperature=0) == want
    model.generation_config = before


@pytest.mark.parametrize("as_list", [False, True])
def test_every_end_of_turn_of_the_model_stops_and_is_stripped(model, tokenizer, as_list):
    def greedy(steps):
        one = {"full": Route()}
        (text,) = sample_modes(model, tokenizer, PROMPTS[1:2], one, max_new_tokens=steps, temperature=0)[
            "full"
        ]
        return text

    before, whole = model.generation_config, greedy(8)
    ids = [tokenizer.bos_token_id, *tokenizer.encode(PROMPTS[1], add_special_tokens=False)]
    with torch.no_grad():
        output = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[
            0, len(ids) :
        ].tolist()
    assert tokenizer.decode(until(output, [tokenizer.eos_token_id])) == whole
    end = output[2]
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, end] if as_list else end)
    try:
        assert stop_ids(model, tokenizer) == sorted({tokenizer.eos_token_id, end})
        assert greedy(8) == tokenizer.decode(until(output, [end])) != whole
    finally:
        model.generation_config = before


def test_stop_ids_without_any(model, tokenizer):
    before, model.generation_config = model.generation_config, GenerationConfig()
    assert stop_ids(model, tokenizer) == [tokenizer.eos_token_id]
    model.generation_config = before


def test_noise_samples_from_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    seeds = range(4000)
    noise = PairedSampling(seeds, modes=1, temperature=0.7, device=torch.device("cpu"))
    chosen = noise(torch.empty(4000, 0), logits.expand(4000, 4)).argmax(1)
    share = torch.bincount(chosen, minlength=4) / 4000
    torch.testing.assert_close(share, (logits / 0.7).softmax(0), atol=0.025, rtol=0)
