"""The dial's page: checkpoints behind one lock, and what its sliders and buttons do."""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

# before it is imported: nothing is reported to anybody
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import gradio as gr
import matplotlib.pyplot as plt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import dial_html as html
from adapters import Route
from dial_tasks import Settings, Task, load_task
from lab.curves import curve_panels, curves_figure
from lab.errors import BadInput
from routing.dial import DIAL, bad_effects, dial_modes
from routing.merging import load_run
from routing.streaming import stream_modes

RANGE = (-1.0, 2.0)  # of the sliders
SCALES = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)  # of a curve that the page measures
# Handlers run in threads; a model has one table of routes, and pyplot one current figure.
LOCK = threading.Lock()


@dataclass
class Dial:
    """A checkpoint to turn. `curve`: the results of modes named by bad's scale, once they are known."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    settings: Settings
    curve: dict[str, Any] = field(default_factory=dict)


def load_dial(checkpoint: Path, settings: Settings, task_folder: str = "") -> Dial:
    """The dial of a run's checkpoint.

    Raises BadInput for one that is missing or damaged, and if its task, its own task.py perhaps, fails.
    """
    wrong = (KeyError, TypeError, ValueError, AttributeError, OSError)
    try:
        model, tokenizer, config = load_run(checkpoint)
    except wrong as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"{checkpoint}: this checkpoint is damaged ({reason}); train the run again") from error
    try:
        task = load_task(checkpoint, config, model, tokenizer, settings, task_folder)
    except (*wrong, ImportError, NameError, SyntaxError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"{checkpoint}: its data or its task.py failed ({reason}); mend that") from error
    curve = saved_curve(checkpoint.resolve(), config["weights_sha256"])
    return Dial(checkpoint.resolve().name, model, tokenizer, task, settings, curve)


def saved_curve(checkpoint: Path, weights: str) -> dict[str, Any]:
    """What analyze_dial.py measured of these weights (a SHA-256); empty if nothing that can be read."""
    path = checkpoint.parent.parent / "results" / checkpoint.name / "dial_bad.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        # the run may have been trained again since
        modes = saved["modes"] if saved["weights_sha256"] == weights else {}
        return {name: modes[name] for name in sorted(modes, key=float)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def turned(
    dial: Dial, good_scale: float, bad_scale: float, prompt: str, seed: int, samples: int
) -> Iterator[str]:
    """The dial's section of the page, token by token, and at last with verdicts and coloured tokens."""
    modes, task, settings = dial_modes(good_scale, bad_scale), dial.task, dial.settings
    sampling = (settings.max_new_tokens, settings.temperature, seed)
    texts: Mapping[str, Sequence[str]] = {}
    for texts in stream_modes(dial.model, dial.tokenizer, [prompt] * samples, modes, *sampling):
        yield html.section(dial.name, html.cards(modes, texts, None, task.behaviour))
    found = {mode: task.judge(prompt, texts[mode]) for mode in modes}
    effects = bad_effects(dial.model, dial.tokenizer, prompt, texts[DIAL][0], good_scale)
    cards = html.cards(modes, texts, found, task.behaviour)
    yield html.section(dial.name, cards, html.tokens(effects, prompt))


def drawn(dial: Dial, bad_scale: float) -> str:
    """The curve with the place where the dial stands, or what to do for one."""
    if not dial.curve:
        return html.section(dial.name, "<p>no curve yet: measure a small one</p>")
    columns = dial.task.columns
    bounded = {column.panel for column in columns if column.bounded}
    figure = curves_figure(curve_panels(dial.curve, columns), "scale of bad", bounded, mark=bad_scale)
    png = BytesIO()
    figure.savefig(png, format="png", dpi=110)
    plt.close(figure)
    caption = f"{dial.name}: over the scale of bad, good at 1; the dashed line is bad at {bad_scale:g}"
    return html.picture(png.getvalue(), caption)


def measured(dial: Dial) -> dict[str, Any]:
    """A small curve: as analyze_dial.py measures one, over the page's held-out prompts."""
    return dial.task.evaluate({f"{scale:g}": Route(bad_scale=scale) for scale in SCALES})


def scale_of(value: float | None) -> float:
    """What a slider sends, as a scale within RANGE: its box sends null once it is emptied, and any number."""
    return min(max(float(value or 0.0), RANGE[0]), RANGE[1])


def make_page(dials: Sequence[Dial], messages: Sequence[str], samples: int) -> gr.Blocks:
    """The page; with nothing but the messages where no checkpoint could be loaded."""

    def turn(good: float | None, bad: float | None, seed: float | None, prompt: str | None):
        good, bad, seed, prompt = scale_of(good), scale_of(bad), int(seed or 0), prompt or ""
        with LOCK:
            curves = "".join(drawn(dial, bad) for dial in dials)
            done = ""
            for dial in dials:
                view = ""
                try:
                    for view in turned(dial, good, bad, prompt, seed, samples):
                        yield done + view, curves
                except BadInput as error:
                    view = html.section(dial.name, html.message(str(error)))
                    yield done + view, curves
                done += view

    def measure(bad: float | None):
        with LOCK:
            try:
                for dial in dials:
                    dial.curve = measured(dial)
                return "".join(drawn(dial, scale_of(bad)) for dial in dials)
            except BadInput as error:
                return html.message(str(error))

    with gr.Blocks(title="The dial", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("## Turn the ablation by hand\nBad at 1 is the full model, bad at 0 the ablated one.")
        if messages:
            gr.HTML("".join(map(html.message, messages)))
        if not dials:
            return page
        prompts = dials[0].task.prompts
        first = next(iter(prompts.values()), "")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                bad = gr.Slider(*RANGE, 1, step=0.05, label="bad_scale", elem_id="dial-bad")
                good = gr.Slider(*RANGE, 1, step=0.05, label="good_scale", elem_id="dial-good")
                choice = gr.Dropdown(
                    list(prompts.items()), value=first, label="a held-out prompt", elem_id="dial-choice"
                )
                prompt = gr.Textbox(first, lines=3, label="or one of your own", elem_id="dial-prompt")
                seed = gr.Number(0, label="seed of the noise", precision=0, elem_id="dial-seed")
                sample = gr.Button("Sample", variant="primary", elem_id="dial-sample")
                small = gr.Button("Measure a small curve", elem_id="dial-measure")
            with gr.Column(scale=3):
                results = gr.HTML(elem_id="dial-results")
        curves = gr.HTML(elem_id="dial-curves")
        settings, shown = [good, bad, seed, prompt], [results, curves]
        # not preprocessed: a slider refuses the null that its box sends once it is emptied
        raw = {"preprocess": False, "api_visibility": "private"}
        gr.on(
            [page.load, good.release, bad.release, seed.submit, prompt.submit, sample.click],
            turn, settings, shown, trigger_mode="always_last", **raw,
        )  # fmt: skip
        choice.input(lambda chosen: chosen, choice, prompt, **raw).then(turn, settings, shown, **raw)
        small.click(measure, bad, curves, **raw)
    return page


def serve(page: gr.Blocks, host: str, port: int) -> None:
    """Serve the page until Ctrl-C. Raises BadInput if the port is taken."""
    font = ["system-ui", "sans-serif"]
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            # no font, script or picture of another host
            theme=gr.themes.Default(font=font, font_mono=["ui-monospace", "monospace"]),
            css_paths=Path(__file__).with_name("dial.css"),
            ssr_mode=False,
            footer_links=[],
            run_history=False,
        )
    except OSError as error:
        raise BadInput(f"HOST={host!r}, PORT={port}: {error}; give another PORT") from None
