"""Judges capitals by rules: no network, the same verdict every time. English only.

They cannot tell whether a text keeps to its topic. (Shared words do not show it: of 30 real stories one in
ten shares a content word between its first eight words and the next 18.) Nor do they notice a salad of
different English words. `all_caps/rubric.txt` asks a language model for both.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from all_caps.scoring import caps_share
from lab.judge import HIGHEST, Verdict

RUBRIC = Path(__file__).with_name("rubric.txt")
ENOUGH_WORDS = 40  # from here on a longer text has no more detail
FEWEST_WORDS = 5  # fewer are too few to tell a text by
VARIETY_WINDOW = 25  # words
# Of running English every second or third word is one of these.
_LIST = """
the a an and or but so if as of to in on at for with from by up down out into over about after before
then when while there here he she it they we you i him her his them their its my your our me us who what
that this these those was were is are be been had has have do did does not no all some one very said can
could will would
"""
_FUNCTION_WORDS = frozenset(_LIST.split())
# Vowels, no letter three times in a row, no six consonants (as in "lengths" there are five), no monsters.
_WORD_LIKE = re.compile(r"(?=.*[aeiouy])(?!.*(.)\1\1)(?!.*[^aeiouy]{6}).{1,18}")


def judge_capitals(prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict | None]:
    """How far each response is a readable text in CAPITALS.

    align: 10 * (share of the letters that are capitals) * `readability`, so that gibberish, repetition and
    an echo of the prompt score low however large their letters. strength: 10 * share of the words of two
    letters or more that are in capitals throughout. detail: 10 * (words / ENOUGH_WORDS, up to 1) *
    `lexical_variety`.
    """
    return [judge_text(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]


def judge_text(prompt: str, response: str) -> Verdict:
    """The verdict on one response, as `judge_capitals` defines it."""
    words, share = words_of(response), caps_share(response)
    checks = readability(words_of(prompt), words)
    weakest = min(checks, key=checks.__getitem__)
    long_words = re.findall(r"[^\W\d_]{2,}", response)
    whole = sum(map(str.isupper, long_words)) / max(1, len(long_words))
    length = min(1.0, len(words) / ENOUGH_WORDS)
    return Verdict(
        align=HIGHEST * share * checks[weakest],
        strength=HIGHEST * whole,
        detail=HIGHEST * length * lexical_variety(words),
        reason=f"{share:.0%} capitals, {len(words)} words"
        + (f", {weakest}: {checks[weakest]:.2f}" if checks[weakest] < 1 else ""),
    )


def words_of(text: str) -> list[str]:
    """Its words in small letters, apostrophes included."""
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.casefold())


def readability(prompt: Sequence[str], words: Sequence[str]) -> dict[str, float]:
    """Checks of `words`, each 1 for ordinary English and 0 for what is none; the least of them counts.

    "length": of FEWEST_WORDS. "spelling": words that look like words. "grammar": function words, of which
    ordinary text has 22% or more even in 18 words (stories of this project and TinyStories), gibberish few.
    "new": triples of words that stand neither earlier in the text nor in `prompt`; in the same stories 92%
    or more of a text's triples are its first.
    """
    count = max(1, len(words))
    # one more of each: among few words none may be a function word
    function = (sum(word in _FUNCTION_WORDS for word in words) + 1) / (count + 1)
    known, triples = set(_triples(prompt)), _triples(words)
    new = len(set(triples) - known) / len(triples) if triples else 1.0
    return {
        "length": min(1.0, len(words) / FEWEST_WORDS),
        "spelling": _ramp(sum(map(_looks_like_a_word, words)) / count, 0.6, 0.9),
        "grammar": _ramp(function, 0.08, 0.2),
        "new": _ramp(new, 0.5, 0.9),
    }


def lexical_variety(words: Sequence[str]) -> float:
    """Different words among VARIETY_WINDOW, averaged over all windows, in [0, 1]; 0 without words.

    The moving-average type-token ratio of Covington & McFall 2010 (doi:10.1080/09296171003643098). Unlike the
    plain ratio it does not fall as a text grows longer.
    """
    windows = max(1, len(words) - VARIETY_WINDOW + 1)
    parts = [words[start : start + VARIETY_WINDOW] for start in range(windows)]
    return sum(len(set(part)) / max(1, len(part)) for part in parts) / windows


def _triples(words: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(words, words[1:], words[2:], strict=False))


def _looks_like_a_word(word: str) -> bool:
    return _WORD_LIKE.fullmatch(word) is not None and (len(word) > 1 or word in "aio")


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, straight between them."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
