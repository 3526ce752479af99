"""What the dial's page shows, as HTML: completions with verdicts, coloured tokens, a curve, messages."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

from adapters import Route
from dial_tasks import Found
from lab.plots import PALETTE

MOST = 3.0  # nats from which on a token's colour is strongest
MORE, LESS = PALETTE[1], PALETTE[0]
TITLES = {"dial": "the dial", "full": "full", "bad_ablated": "bad ablated", "base": "base"}


def message(text: str) -> str:
    """What went wrong, instead of what was asked for."""
    return f'<p class="dial-message" role="alert">{escape(text)}</p>'


def section(name: str, *parts: str) -> str:
    """What belongs to one checkpoint."""
    return f'<section class="dial-section"><h3>{escape(name)}</h3>{"".join(parts)}</section>'


def cards(
    modes: Mapping[str, Route],
    texts: Mapping[str, Sequence[str]],
    found: Mapping[str, Sequence[Found]] | None,
    behaviour: str,
) -> str:
    """A card a mode: its scales, its first completion, and once they are `found` its verdicts."""
    made = [
        card(mode, route, texts[mode], found[mode] if found else None, behaviour)
        for mode, route in modes.items()
    ]
    return f'<div class="dial-cards">{"".join(made)}</div>'


def card(mode: str, route: Route, texts: Sequence[str], found: Sequence[Found] | None, behaviour: str) -> str:
    """One mode's completions: the first one, its tests, the rate over all, and the others folded away."""
    scales = f"good {route.good_scale:g}, bad {route.bad_scale:g}"
    head = f"<h4>{TITLES[mode]}</h4><small>{scales}</small>"
    body = f'<p class="dial-text">{escape(texts[0])}</p>'
    if found is not None:
        others = "".join(f"<li>{escape(text)}</li>" for text in texts[1:])
        body += tests(found[0].tests) + rate([one.shows for one in found], behaviour)
        if others:
            body += f"<details><summary>the other samples</summary><ul>{others}</ul></details>"
    return f'<div class="dial-card" data-mode="{mode}">{head}{body}</div>'


def rate(shows: Sequence[bool | None], behaviour: str) -> str:
    """How many of the samples show the behaviour, in words and as a bar."""
    if None in shows:
        return '<p class="dial-rate">no verdict: a prompt of your own has no tests</p>'
    count = sum(map(bool, shows))
    width = 100 * count / len(shows)
    bar = f'<div class="dial-bar"><div style="width:{width:.0f}%"></div></div>'
    return f'<p class="dial-rate">{count} of {len(shows)} {escape(behaviour)}</p>{bar}'


def tests(verdicts: Sequence[tuple[str, str]]) -> str:
    """Each test of a program with its verdict."""
    lines = [
        f'<li class="dial-{escape(verdict)}"><b>{escape(verdict)}</b> <code>{escape(test)}</code></li>'
        for test, verdict in verdicts
    ]
    return f'<ul class="dial-tests">{"".join(lines)}</ul>' if lines else ""


def tokens(effects: Sequence[tuple[str, float | None]], prompt: str) -> str:
    """The text, its tokens coloured by what bad adds to their log-probability, under a legend."""
    spans, seen = [], 0
    for text, effect in effects:
        kind = "dial-token dial-prompt" if seen < len(prompt) else "dial-token"
        seen += len(text)
        title = "the first token has no probability" if effect is None else f"{effect:+.2f} nats"
        spans.append(f'<span class="{kind}" style="{shade(effect)}" title="{title}">{escape(text)}</span>')
    legend = (
        '<div class="dial-legend">What bad (at 1, not 0) adds to the log-probability of each token of the '
        f"dial's text, in nats: &minus;{MOST:g}"
        f'<i style="background:linear-gradient(90deg,{LESS}bf,transparent,{MORE}bf)"></i>+{MOST:g}. '
        "The prompt is underlined.</div>"
    )
    return f'{legend}<p class="dial-tokens">{"".join(spans)}</p>'


def shade(effect: float | None) -> str:
    """The background of a token: the stronger the effect, the less transparent."""
    if effect is None:
        return ""
    strength = round(0.75 * 255 * min(1.0, abs(effect) / MOST))
    return f"background:{MORE if effect > 0 else LESS}{strength:02x}"


def picture(png: bytes, caption: str) -> str:
    """A figure within the page."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure class="dial-curve"><img src="data:image/png;base64,{data}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
