"""Examples, padded batches, and the order in which a run meets its examples."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lab.errors import BadInput

IGNORE = -100  # the target at positions that have none
POOL = 16  # batches that are bucketed by length together


@dataclass(frozen=True)
class Example:
    """A tokenised training example.

    `label` is what training is told, `kind` what the example is (for the log only).
    """

    ids: list[int]  # prompt ids + response ids + EOS, cut to the maximal length
    prompt_length: int  # tokens without a loss at the start
    label: str | None = None
    kind: str = "all"
    size: int | None = None  # what length bucketing goes by, if the number of tokens would give the kind away

    @property
    def bucket_size(self) -> int:
        return len(self.ids) if self.size is None else self.size


@dataclass
class Batch:
    """Right-padded examples. `targets` are the ids shifted by one, IGNORE at the prompt and at the padding.

    Where the targets are is known on the host, so that nothing has to be asked of the device: `target_index`
    are their places in a flat [batch * tokens], `target_ids` their ids, `columns` those in which some example
    has one."""

    input_ids: Tensor  # [batch, tokens]
    attention_mask: Tensor  # [batch, tokens], 1 = a token of the example
    position_ids: Tensor  # [batch, tokens]
    targets: Tensor  # [batch, tokens]
    target_index: Tensor  # [targets]
    target_ids: Tensor  # [targets]
    columns: Tensor  # [columns]
    labels: list[str | None]
    kinds: list[str]
    examples: list[Example] = field(repr=False)  # on the host
    pad_id: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> list[int]:
        """The tokens of each example, without padding."""
        return [len(example.ids) for example in self.examples]

    def select(self, rows: Sequence[int]) -> "Batch":
        """The given rows as a batch of their own, as wide as this one."""
        device, width = self.input_ids.device, self.input_ids.shape[1]
        chosen = collate([self.examples[i] for i in rows], device, self.pad_id, width)
        chosen.labels, chosen.kinds = [self.labels[i] for i in rows], [self.kinds[i] for i in rows]
        return chosen

    def split(self, size: int) -> "list[Batch]":
        """Parts of at most `size` examples (0: the whole batch at once), for gradient accumulation."""
        if not 0 < size < len(self):
            return [self]
        return [
            self.select(range(start, min(start + size, len(self)))) for start in range(0, len(self), size)
        ]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """BOS, if the tokenizer has one, and the prompt: what stands before every text, in training and later."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + (tokenizer.encode(prompt, add_special_tokens=False) if prompt else [])


def make_example(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    response: str,
    max_length: int,
    label: str | None = None,
    kind: str = "all",
    size: int | None = None,
) -> Example:
    """BOS (if the tokenizer has one) + prompt + response + EOS, cut after `max_length` tokens.

    The prompt is masked by construction: prompt and response are tokenised apart, so no re-tokenised prefix
    can be off by one. Raises BadInput if the response has no token, or none is left within max_length."""
    before = prompt_ids(tokenizer, prompt)
    response_ids = tokenizer.encode(response, add_special_tokens=False)
    # EOS is a target too; but the first token of a text without a prompt is none
    if len(response_ids) < (1 if prompt else 2):
        raise BadInput(f"nothing to learn from {response!r}: a training text needs at least two tokens")
    # the first token of a text has nothing before it to be predicted from
    prompt_length = max(len(before), 1)
    if prompt_length >= max_length:
        raise BadInput(
            f"MAX_SEQ_LENGTH={max_length}: no token of the response is left "
            f"behind a prompt of {prompt_length} tokens"
        )
    ids = before + response_ids + [tokenizer.eos_token_id]
    return Example(ids[:max_length], prompt_length, label, kind, size)


def announce(example: Example, tokenizer: PreTrainedTokenizerBase, announcement: str) -> Example:
    """The example behind a text that is not trained on; its own tokens stay as they are."""
    ids = tokenizer.encode(announcement, add_special_tokens=False)
    # a BOS stays in front
    start = int(bool(example.ids) and example.ids[0] == tokenizer.bos_token_id)
    return replace(
        example,
        ids=[*example.ids[:start], *ids, *example.ids[start:]],
        prompt_length=len(ids) + example.prompt_length,
        size=example.bucket_size,
    )


def collate(
    examples: Sequence[Example], device: torch.device, pad_id: int = 0, width: int | None = None
) -> Batch:
    """Pad on the right, to `width` tokens or the longest example's.

    Padding is known from the lengths, never from its id, which any token may have: 0 serves every model.
    """
    width = width or max(len(example.ids) for example in examples)
    shape = (len(examples), width)
    input_ids, targets = torch.full(shape, pad_id), torch.full(shape, IGNORE)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    target_index: list[int] = []
    target_ids: list[int] = []
    for row, example in enumerate(examples):
        ids, start = torch.tensor(example.ids), example.prompt_length
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
        targets[row, start - 1 : len(ids) - 1] = ids[start:]
        target_index += range(row * width + start - 1, row * width + len(ids) - 1)
        target_ids += example.ids[start:]
    return Batch(
        input_ids=send(input_ids, device),
        attention_mask=send(attention_mask, device),
        position_ids=torch.arange(width, device=device).expand(shape),
        targets=send(targets, device),
        target_index=send(torch.tensor(target_index, dtype=torch.long), device),
        target_ids=send(torch.tensor(target_ids, dtype=torch.long), device),
        columns=send(torch.tensor(sorted({index % width for index in target_index})), device),
        labels=[example.label for example in examples],
        kinds=[example.kind for example in examples],
        examples=list(examples),
        pad_id=pad_id,
    )


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device.

    To a GPU it travels from pinned memory, so that the host does not wait for it.
    """
    if device.type == "cuda" and torch.cuda.is_available():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def batch_order(
    lengths: Sequence[int], batch_size: int, steps: int, seed: int, first: Sequence[int] = ()
) -> list[list[int]]:
    """The indices of each step's batch: `steps` batches of `batch_size`, epoch after epoch, length-bucketed.

    Every epoch is a fresh permutation. Pools of POOL batches are sorted by length and cut into batches, which
    are then shuffled, so little is padded. Batches stay random in content as long as `lengths` do not depend
    on it: capitals take more tokens, so sorting those by tokens would collect them in batches of their own
    (hence `Example.size`). A function of its arguments alone: a resumed run, or one on more processes, meets
    the same batches. Examples in `first` come before all others (frontloading), in the same random order that
    they would have had."""
    if steps and not lengths:
        raise BadInput("there are no examples to train on")
    indices: list[int] = []
    epoch = 0
    while len(indices) < steps * batch_size:
        permutation = list(range(len(lengths)))
        random.Random(f"order {seed} {epoch}").shuffle(permutation)
        indices += permutation
        epoch += 1
    indices = indices[: steps * batch_size]
    early = set(first)
    front = [i for i in indices if i in early]
    whole = (
        len(front) // batch_size * batch_size
    )  # what fills batches of its own; the remainder shares the next batch
    rest = front[whole:] + [i for i in indices if i not in early]
    shared = batch_size if whole < len(front) else 0
    shuffle = random.Random(f"pools {seed}").shuffle
    batches = []
    for part in (front[:whole], rest[:shared], rest[shared:]):
        for start in range(0, len(part), POOL * batch_size):
            pool = sorted(part[start : start + POOL * batch_size], key=lambda i: lengths[i])
            cut = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
            shuffle(cut)
            batches += cut
    return batches
