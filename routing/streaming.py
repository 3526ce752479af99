"""Sampling several ablation modes, token by token: what `sample_modes` returns, while it is made."""

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from adapters import Route, TrainedLayer
from routing.batches import prompt_ids
from routing.generation import check_prompts, generate_modes, noise_seeds, texts_by_mode


class _Columns(BaseStreamer):
    """Hands on the tokens that every step of generate() adds, [rows]; its first ones are the prompts."""

    def __init__(self):
        self.made: queue.Queue[Tensor | BaseException | None] = queue.Queue()
        self.prompts_seen = False

    def put(self, value: Tensor) -> None:
        if self.prompts_seen:
            self.made.put(value)
        self.prompts_seen = True

    def end(self) -> None:
        """Its end is that of the thread: see `stream_modes`."""


class _Stop(StoppingCriteria):
    """Ends every row at the next token once somebody asked for it."""

    def __init__(self):
        self.asked = threading.Event()

    def __call__(self, input_ids: Tensor, scores: Tensor, **more) -> Tensor:
        return torch.full((len(input_ids),), self.asked.is_set(), device=input_ids.device)


def stream_modes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    modes: Mapping[str, Route],
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> Iterator[dict[str, list[str]]]:
    """After every token: mode name -> the completion of each prompt so far. In one process alone.

    The last one is what `sample_modes` returns. All modes run in one batch, in a thread of its own. A
    generator that is closed early ends that thread before it returns, so the model is free afterwards.
    """
    check_prompts(tokenizer, prompts)
    if len(modes) > 1 and any(isinstance(module, TrainedLayer) for module in model.modules()):
        # one mode after the other, as in sample_modes
        done = {name: [""] * len(prompts) for name in modes}
        for name, route in modes.items():
            alone = {name: route}
            for texts in stream_modes(model, tokenizer, prompts, alone, max_new_tokens, temperature, seed):
                done = {**done, **texts}
                yield done
        return
    encoded, seeds = (
        [prompt_ids(tokenizer, prompt) for prompt in prompts],
        noise_seeds(seed, range(len(prompts))),
    )
    columns, stop = _Columns(), _Stop()

    def work() -> None:
        ending: BaseException | None = None
        try:
            generate_modes(
                model, tokenizer, encoded, modes, seeds, max_new_tokens, temperature,
                streamer=columns, stopping_criteria=StoppingCriteriaList([stop]),
            )  # fmt: skip
        except BaseException as error:
            ending = error
        columns.made.put(ending)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        made: list[Tensor] = []
        while isinstance(column := columns.made.get(), Tensor):
            made.append(column)
            yield texts_by_mode(model, tokenizer, torch.stack(made, dim=1), modes)
        if column is not None:
            raise column
    finally:
        stop.asked.set()
        thread.join()
