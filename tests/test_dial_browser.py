"""The dial's page in a real Chromium: `uv run --group browser pytest -m slow tests/test_dial_browser.py`.

Needs chromium and chromium-driver (`apt-get install chromium chromium-driver`).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from conftest import REPO, randomize

from routing.checkpoints import write_checkpoint
from routing.models import attach_adapters, load_model

pytest.importorskip("gradio")
pytest.importorskip("selenium")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromium-driver"),
]
SMALL = ["NUM_PROMPTS=2", "NUM_SAMPLES=2", "MAX_NEW_TOKENS=12"]
WAIT = 300


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def serve():
    """Starts the page in a process of its own, without a network for libraries to ask; returns its address."""
    processes = []

    def start(*constants: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "tools/dial.py", *constants, *SMALL, f"PORT={port}"]
        processes.append(subprocess.Popen(command, cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        address = f"http://127.0.0.1:{port}"
        for _ in range(WAIT):  # seconds, on a busy machine
            assert processes[-1].poll() is None, "the page's process ended"
            try:
                urllib.request.urlopen(address, timeout=5).close()
                return address
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        raise TimeoutError(address)

    yield start
    for process in processes:
        process.terminate()
        process.wait()


@pytest.fixture
def checkpoint(tmp_path, model_folder):
    """One of all_caps, with random adapters: they change what is written."""
    model, _ = load_model(str(model_folder), "float32")
    attach_adapters(model, "lora", lora={"rank": 4, "bad_rank": 4, "alpha": 40}, mlp={})
    randomize(model)
    folder = tmp_path / "checkpoints/tiny"
    write_checkpoint(folder, model, {"MODEL_NAME": str(model_folder), "STORIES": "embedded:stories"}, None)
    return folder


def until(browser, condition):
    return WebDriverWait(browser, WAIT).until(condition)


def text_of(browser, selector: str) -> str:
    """What stands there, read in one step: the page may put something new in its place at any time."""
    script = "return document.querySelector(arguments[0])?.innerText ?? ''"
    return browser.execute_script(script, selector)


def settled(browser, scales: str) -> str:
    """The text of the dial's card, once it is judged at these scales."""

    def ready(_):
        card = text_of(browser, '[data-mode="dial"]')
        return scales in card and "of 2" in card

    until(browser, ready)
    return text_of(browser, '[data-mode="dial"] .dial-text')


def set_number(browser, element: str, keys: str) -> None:
    """Type into a slider's number box, as a user who selects all of it first, and leave it."""
    box = browser.find_element(By.CSS_SELECTOR, f"#{element} input[type=number]")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(keys, Keys.TAB)


def drag(browser, element: str, pixels: int) -> None:
    slider = browser.find_element(By.CSS_SELECTOR, f"#{element} input[type=range]")
    webdriver.ActionChains(browser).drag_and_drop_by_offset(slider, pixels, 0).perform()


def asked_elsewhere(browser, address: str) -> list[str]:
    """The requests that the browser made of another host than the page's."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith(address) for url in urls)
    return [url for url in urls if not url.startswith((address, "data:", "blob:"))]


def test_turning_the_dial_changes_text_numbers_and_curve(browser, serve, checkpoint):
    address = serve(f"CHECKPOINT={checkpoint}", f"CHECKPOINT_2={checkpoint.parent / 'none'}")
    browser.get(address)
    first = settled(browser, "good 1, bad 1\n")
    # of the second checkpoint there is a message, and the first one can be used
    assert "no checkpoint here" in text_of(browser, ".dial-message")
    full, ablated = (text_of(browser, f'[data-mode="{mode}"] .dial-text') for mode in ("full", "bad_ablated"))
    assert first == full != ablated
    shades = "return [...document.querySelectorAll('.dial-token')].map(token => token.title)"
    assert text_of(browser, ".dial-legend") and any("nats" in t for t in browser.execute_script(shades))
    drag(browser, "dial-bad", -100)
    until(browser, lambda _: "bad 1\n" not in text_of(browser, '[data-mode="dial"]'))
    assert settled(browser, "good 1, bad ") != first
    # an emptied box is 0, which with the same noise is what "bad ablated" shows
    set_number(browser, "dial-bad", Keys.DELETE)
    assert settled(browser, "good 1, bad 0\n") == ablated
    browser.find_element(By.ID, "dial-measure").click()
    until(browser, lambda _: "bad at 0" in text_of(browser, ".dial-curve"))
    set_number(browser, "dial-good", "0")
    settled(browser, "good 0, bad 0\n")
    # an emptied seed is the first one, too
    browser.find_element(By.CSS_SELECTOR, "#dial-seed input").send_keys(Keys.CONTROL, "a", Keys.DELETE)
    browser.find_element(By.CSS_SELECTOR, "#dial-prompt textarea").send_keys(" & <b>then")
    browser.find_element(By.ID, "dial-sample").click()
    until(browser, lambda _: "<b>then" in text_of(browser, ".dial-tokens"))
    assert asked_elsewhere(browser, address) == []


def test_a_damaged_checkpoint_is_a_message_on_the_page(browser, serve, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    for damage, said in (({}, "damaged"), ({**config, "weights_sha256": ""}, "not of one run")):
        (checkpoint / "config.json").write_text(json.dumps(damage))
        browser.get(serve(f"CHECKPOINT={checkpoint}"))
        until(browser, lambda _, said=said: said in text_of(browser, ".dial-message"))
        assert "Traceback" not in browser.page_source
        assert not browser.find_elements(By.ID, "dial-bad")
