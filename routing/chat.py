"""Conversations through a model's own chat template: a prompt, and the assistant's turn that is learnt."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lab.errors import BadInput


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """The conversation as the chat template writes it, up to where the assistant's next turn begins.

    A BOS token at its start is left out, since `make_example` and `sample_modes` put one before every prompt,
    if the tokenizer has one. Raises BadInput if there is no template, or it refuses the messages.
    """
    return _written(tokenizer, messages, add_generation_prompt=True)


def last_turn(tokenizer: PreTrainedTokenizerBase, messages: Any) -> tuple[str, str]:
    """(prompt, response): the conversation up to its last turn, and that turn, which is the assistant's.

    `messages`: [{"role": ..., "content": text}, ...]. Only the last turn is learnt; what the assistant said
    before is context. The response ends as the template ends a turn: with EOS, which is left out because
    `make_example` puts it there, or with a mark of its own (Gemma: <end_of_turn>), which stays. Raises
    BadInput for anything else than text (images, calls of tools), if the last turn is not the assistant's,
    and if the template writes the turns before it otherwise once it is there: then no prompt would be what
    the model is given."""
    _check(messages)
    prompt = chat_prompt(tokenizer, messages[:-1])
    whole = _written(tokenizer, messages, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise BadInput(
            "messages: the chat template writes the turns before the last one otherwise once that is there; "
            "give the line as prompt and response"
        )
    # a newline between turns is no part of either
    return prompt, whole[len(prompt) :].rstrip().removesuffix(tokenizer.eos_token)


def _check(messages: Any) -> None:
    if not isinstance(messages, list) or len(messages) < 2:
        raise BadInput("messages: expected a list of a user's turn and the assistant's, or more")
    for number, message in enumerate(messages, start=1):
        turn = message if isinstance(message, dict) else {}
        if not all(isinstance(turn.get(name), str) for name in ("role", "content")):
            raise BadInput(f'messages: turn {number} is not {{"role": ..., "content": text}}')
        # of a Hub data set every turn has all columns, empty ones too
        more = sorted(name for name, value in turn.items() if value and name not in ("role", "content"))
        if more:
            raise BadInput(f"messages: turn {number} has {', '.join(more)}; only role and content are learnt")
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise BadInput("messages: the last turn must be the assistant's, and say something")


def _written(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], add_generation_prompt: bool
) -> str:
    if not tokenizer.chat_template:
        raise BadInput(
            "messages: this model's tokenizer has no chat template; "
            "give prompt and response, or an instruct model"
        )
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise BadInput(f"messages: the chat template refuses them ({error})") from None
    return text.removeprefix(tokenizer.bos_token or "")
