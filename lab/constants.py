"""Constants at the top of a script: overridden from the shell as NAME=value, left alone inside IPython."""

import ast
import difflib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from lab.errors import BadInput


def is_bookkeeping(name: str) -> bool:
    """True for constants that do not change what a run learns.

    They are not in its name, and a resumed run may change them.
    """
    return name in BOOKKEEPING or name.startswith(("EVAL_", "NUM_EVAL_"))


# The gradient is the same however little memory it is computed in,
# and programs are judged alike wherever they run.
MEMORY = ("MICRO_BATCH_SIZE", "GRADIENT_CHECKPOINTING")
BOOKKEEPING = ("RESUME", "RUN_NAME", "SAVE_EVERY", "PROBE_EVERY", "SANDBOX", "REPORT_TO", *MEMORY)


def constants_of(namespace: dict[str, Any]) -> dict[str, Any]:
    """The UPPERCASE names of a script that hold plain data.

    That is None, bool, int, float, str, and lists or tuples of them.
    """
    return {name: value for name, value in namespace.items() if name.isupper() and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, type(None) | bool | int | float | str)


class Constants(dict[str, Any]):
    """A script's constants as run, by name. `overridden` names those that the shell gave."""

    overridden: tuple[str, ...] = ()


def override_constants(namespace: dict[str, Any], arguments: list[str] | None = None) -> Constants:
    """Apply `NAME=value` arguments to a script's constants, in place: pass `globals()`.

    By default they are those of the command line. Values are Python literals of the default's type (an int
    also fits a float, and a None default takes anything); for a str the quotes may be left out. Raises
    BadInput for an unknown name, suggesting the nearest, and for a value of the wrong type.
    Inside IPython nothing is parsed: there the arguments are the kernel's. Returns all constants.
    """
    if arguments is None and in_ipython():
        arguments = []
    elif arguments is None:
        show_bad_input_without_traceback()
        arguments = sys.argv[1:]
    known = constants_of(namespace)
    parsed = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise BadInput(
                f"{argument!r}: write constants as NAME=value, for example {next(iter(known), 'SEED')}=..."
            )
        if name not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.4)
            hint = f"did you mean {nearest[0]}?" if nearest else f"the constants are {', '.join(known)}"
            raise BadInput(f"unknown constant {name!r}: {hint}")
        parsed[name] = _parse(name, text, known[name])
    namespace.update(parsed)
    constants = Constants(constants_of(namespace))
    constants.overridden = tuple(parsed)
    return constants


def use_preset(namespace: dict[str, Any], constants: Constants, preset: Mapping[str, Any]) -> Constants:
    """Give a script's constants the values of `preset`, in place, but for those that the shell gave.

    `constants` is what `override_constants` returned for this `namespace`; returns all constants as they are
    now. Raises BadInput for a name that is no constant."""
    unknown = preset.keys() - constants.keys()
    if unknown:
        raise BadInput(f"the preset has {', '.join(sorted(unknown))}, which the script has not")
    namespace.update({name: value for name, value in preset.items() if name not in constants.overridden})
    changed = Constants(constants_of(namespace))
    changed.overridden = constants.overridden
    return changed


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise BadInput, naming the constant and the choices, unless `value` is one of these."""
    choices = list(choices)
    if value not in choices:
        raise BadInput(f"{name}={value!r}: choose one of {', '.join(map(str, choices))}")


def _parse(name: str, text: str, default: Any) -> Any:
    try:
        value = ast.literal_eval(text)
    # whatever ast may raise; a bare word is a string
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    # a set, say, could not be saved with the run
    value = value if _is_plain(value) else text
    if isinstance(default, str) and value is not None:
        value = value if isinstance(value, str) else text  # SEED-like run names stay strings
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise BadInput(f"{name}={text}: expected a {type(default).__name__} like {default!r}")
    return value


def in_ipython() -> bool:
    """True in a notebook, in VS Code's interactive window and at an IPython prompt."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def show_bad_input_without_traceback() -> None:
    """From here on an uncaught BadInput prints one message.

    The exit code stays 1; other exceptions are as before.
    """
    previous = sys.excepthook

    def hook(kind, error, traceback):
        if issubclass(kind, BadInput):
            print(f"error: {error}", file=sys.stderr)
        elif issubclass(kind, KeyboardInterrupt):
            print("interrupted", *error.args, file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = hook
