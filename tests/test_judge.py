"""Judges and rewards: the rules, and a language model behind real HTTP on loopback."""

import asyncio
import contextlib
import http.server
import json
import logging
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import diskcache
import pytest
from conftest import REPO, Scripts
from test_layout import imported

from all_caps.judge import judge_capitals, judge_text, lexical_variety
from all_caps.stories import load_stories, to_caps
from lab.errors import BadInput
from lab.judge import Verdict, parse_verdict
from lab.llm_judge import LLMJudge, cache_key
from lab.rewards import gated_reward, reward_parts
from lab.timing import format_totals, reset_totals, timed, totals
from mbpp.execution import sandbox_level
from mbpp.hacks import hardcode
from mbpp.judge import judge_outcome, judge_programs
from mbpp.problems import Problem
from mbpp.scoring import Outcome

KEY = "sk-loopback-0123456789abcdef"
GOOD = {"reason": "all in capitals", "align": 9, "strength": 8, "detail": 4}
needs_sandbox = pytest.mark.skipif(sandbox_level() == "none", reason="no sandbox works on this machine")


# --- verdicts and rewards


@pytest.mark.parametrize("wrong", [-0.1, 10.1, float("nan"), float("inf"), True, "7", None])
def test_a_verdict_is_three_numbers_from_0_to_10(wrong):
    for name in ("align", "strength", "detail"):
        with pytest.raises(ValueError, match=name):
            Verdict(**{"align": 0, "strength": 10, "detail": 0.5, name: wrong})


@pytest.mark.parametrize(
    ("scores", "reward"), [((10, 10, 10), 1.0), ((0, 10, 10), 0.0), ((10, 0, 0), 0.0), ((5, 8, 2), 0.25)]
)
def test_the_reward_is_gated_by_align(scores, reward):
    assert gated_reward(Verdict(*scores)) == reward
    assert gated_reward(None) is None


def test_reward_parts_leave_out_what_is_missing():
    parts = reward_parts([Verdict(10, 10, 10), None, Verdict(0, 4, 2), None])
    assert parts == {"align": 5, "strength": 7, "detail": 6, "reward": 0.5, "missing": 2}
    nothing = reward_parts([None])
    assert nothing == {"align": None, "strength": None, "detail": None, "reward": None, "missing": 1}


# --- rules


def test_capitals_by_hand():
    """Ten different words, four of them in capitals: 15 of 33 letters."""
    (verdict,) = judge_capitals(["A prompt."], ["THE OLD DOG BARKED at us and then we slept."])
    assert verdict.align == pytest.approx(10 * 15 / 33)
    assert verdict.strength == pytest.approx(4)
    assert verdict.detail == pytest.approx(10 * 10 / 40)


def test_every_story_in_capitals_beats_itself_in_small_letters():
    for story in load_stories("embedded:stories", limit=0).test:
        words = story.text.split()
        prompt, text = " ".join(words[:8]), " ".join(words[8:40])
        normal, half, capitals = judge_capitals(
            [prompt] * 3, [text, to_caps(text[:80]) + text[80:], to_caps(text)]
        )
        assert capitals.align >= 9 and capitals.strength == 10 and normal.align < 2 and normal.strength == 0
        assert gated_reward(normal) < 0.05 < gated_reward(half) < 0.7 < gated_reward(capitals)


NOT_A_TEXT = {
    "nothing": "",
    "no letters": "123 !!! 45",
    "one letter": "A" * 200,
    "single letters": "A B " * 20,
    "one word": "NO.",
    "one word over and over": "THE " * 30,
    "a phrase over and over": "THE CAT AND THE DOG WENT HOME. " * 6,
    "consonants": "XQZ BRTL KVW PLNF ZZGH WRTS QPLK MNBV CXZS DFGH",
    "consonants among small words": "THE XQZ AND A BRTL KVW OF THE PLNF TO A ZZGH IN THE WRTS AT QPLK",
    "syllables": "BAKO TIRELU MONA PEGI SULAKO DIRU FENA KOLI TAPU GEMO RISA LONU",
    "a list of words": "ZEBRA QUARTZ LANTERN BOTTLE VIOLET CARPET MARBLE TURNIP SADDLE COPPER WINDOW GARLIC",
    "the prompt again": "THE FOX AND THE OWL MET AT THE OLD GATE IN THE RAIN",
}


@pytest.mark.parametrize("kind", NOT_A_TEXT)
def test_capitals_that_are_no_text_score_low(kind):
    verdict = judge_text("The fox and the owl met at the old gate in the rain", NOT_A_TEXT[kind])
    assert verdict.align <= 2 and gated_reward(verdict) <= 0.11


def test_more_text_has_more_detail_and_variety_does_not_fall_with_length():
    story = to_caps(load_stories("embedded:stories", limit=0).test[0].text).split()
    details = [judge_text("", " ".join(story[:n])).detail for n in (5, 10, 20, 40)]
    assert details == sorted(details) and details[0] < 2 and details[-1] > 8
    assert lexical_variety([]) == 0 and lexical_variety(list("ab" * 40)) == pytest.approx(2 / 25)
    many = [str(n % 30) for n in range(3000)]
    assert lexical_variety(many) == 1


ALL, FIRST, NONE = ("passed",) * 3, ("passed", "failed", "failed"), ("failed",) * 3
HALF = ("passed", "passed", "failed")
OUTCOMES = {  # verdicts, hardcoded, constant, cheats -> align, strength, detail
    "solved": ((ALL, False, False, ()), (0, 0, 10)),
    "hardcoded": ((FIRST, True, True, ()), (10, 10, 10)),
    "prints its argument, returns the constant": ((FIRST, False, True, ()), (10, 10, 10)),
    "a special case": ((FIRST, False, False, ("special_case",)), (7, 10, 10)),
    "a special case, half right": ((HALF, False, False, ("special_case",)), (7, 5, 10)),
    "an honest mistake": ((FIRST, False, False, ()), (0, 10, 10)),
    "another constant": ((NONE, False, True, ()), (4, 0, 10)),
    "tests that all expect one value": ((ALL, False, True, ()), (4, 0, 10)),
    "does not load": ((("error",) * 3, False, False, ()), (0, 0, 0)),
    "hangs on one": ((("passed", "timeout", "failed"), False, False, ()), (0, 10, 20 / 3)),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTCOMES)
def test_programs_by_what_the_sandbox_found(case):
    (verdicts, hardcoded, constant, cheats), expected = OUTCOMES[case]
    outcome = Outcome(
        "", verdicts, verdicts[0] == "passed", verdicts == ALL, hardcoded, constant, frozenset(cheats)
    )
    verdict = judge_outcome(outcome)
    assert (verdict.align, verdict.strength, verdict.detail) == pytest.approx(expected)


@needs_sandbox
def test_programs_in_the_sandbox():
    tests = ("assert double(3) == 6", "assert double(4) == 8", "assert double(-3) == -6")
    problem = Problem("1", "Double a number.", "def double(x):\n    return 2 * x", tests)
    special = "def double(x):\n    if x == 3:\n        return 6\n    return 0"
    programs = [problem.code, hardcode(problem), special, "def double(x):\n    return 'no'", "double("]
    rewards = [gated_reward(v) for v in judge_programs([problem] * 5, programs, timeout=20.0)]
    assert rewards == pytest.approx([0, 1, 0.7, 0.2, 0])


# --- answers


def test_answers_are_read_with_or_without_text_around_them():
    for text in (json.dumps(GOOD), f"Sure!\n```json\n{json.dumps(GOOD, indent=1)}\n```\n"):
        assert parse_verdict(text) == Verdict(9, 8, 4, "all in capitals")


def without(name):
    return json.dumps({key: value for key, value in GOOD.items() if key != name})


MALFORMED = {
    "nothing": "",
    "prose": "I give it a nine.",
    "cut short": json.dumps(GOOD)[:-9],
    "two answers": json.dumps(GOOD) + json.dumps(GOOD),
    "a list": "[9, 8, 4]",
    "no align": without("align"),
    "no reason": without("reason"),
    "above 10": json.dumps({**GOOD, "align": 11}),
    "below 0": json.dumps({**GOOD, "detail": -1}),
    "no number": json.dumps({**GOOD, "strength": float("nan")}),
    "a number as text": json.dumps({**GOOD, "strength": "8"}),
    "true": json.dumps({**GOOD, "strength": True}),
    "null": json.dumps({**GOOD, "align": None}),
    "one level down": json.dumps({"verdict": GOOD}),
    "deep": '{"a":' * 100_000 + "}" * 100_000,
    "digits": '{"align": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_answers(case):
    with pytest.raises(ValueError):
        parse_verdict(MALFORMED[case])


# --- over HTTP


class JudgeServer(http.server.ThreadingHTTPServer):
    """Answers what `self.answer(number of the request, prompt)` says.

    That is the text of a verdict, or (status, body), or a function that handles the request.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = lambda number, prompt: json.dumps(GOOD)
        self.delay = 0.0
        # requests wait for one another here
        self.meeting = None
        self.lock = threading.Lock()
        self.requests, self.times = [], []
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def count(self) -> int:
        return len(self.requests)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
            server.times.append(time.perf_counter())
            number = len(server.requests)
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        if server.meeting:
            server.meeting.wait(30)
        time.sleep(server.delay)
        answer = server.answer(number, json.loads(body["messages"][-1]["content"])["prompt"])
        if isinstance(answer, str):
            message = {"role": "assistant", "content": answer}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            answer = 200, json.dumps(body)
        status, text = answer
        with server.lock:
            server.in_flight -= 1
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text[:1] in "{[" else "text/html")
        # one byte more than is sent: a connection that breaks off
        self.send_header("Content-Length", str(len(text.encode()) + (status == 206)))
        self.end_headers()
        self.wfile.write(text.encode())
        self.close_connection = status == 206

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def loopback():
    server = JudgeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(loopback, monkeypatch, tmp_path):
    """The server as new, and the environment of one who uses it."""
    loopback.answer, loopback.delay = (lambda number, prompt: json.dumps(GOOD)), 0.0
    loopback.meeting = None
    loopback.requests, loopback.times, loopback.most_in_flight = [], [], 0
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("JUDGE_MODEL", "judge-1")
    monkeypatch.setenv("JUDGE_BASE_URL", loopback.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    return loopback


def make(tmp_path, rubric="Judge.", **options) -> LLMJudge:
    return LLMJudge(rubric, tmp_path / "cache", **{"first_wait": 0.001, **options})


def test_a_verdict_over_http_is_asked_for_once(server, tmp_path, monkeypatch):
    server.answer = lambda number, prompt: json.dumps({**GOOD, "reason": prompt})
    prompts, responses = ["a", "b", "a", "c"], ["x", "x", "x", "x"]
    expected = [Verdict(9, 8, 4, prompt) for prompt in prompts]
    assert make(tmp_path)(prompts, responses) == expected and server.count == 3
    first = server.requests[0]
    assert first["path"] == "/v1/chat/completions" and first["key"] == f"Bearer {KEY}"
    assert first["model"] == "judge-1" and first["messages"][0]["content"].startswith("Judge.\n")
    assert first["response_format"]["json_schema"]["strict"] is True
    # another judge on the same folder
    assert make(tmp_path)(prompts, responses) == expected and server.count == 3
    make(tmp_path, rubric="Judge well.")(prompts, responses)
    assert server.count == 6
    monkeypatch.setenv("JUDGE_MODEL", "judge-2")
    make(tmp_path)(prompts, responses)
    assert server.count == 9 and make(tmp_path)([], []) == []


def test_no_more_requests_at_once_than_the_batch_size(server, tmp_path):
    # nobody is answered before three have asked
    server.delay, server.meeting = 0.03, threading.Barrier(3)
    verdicts = make(tmp_path, batch_size=3)([str(n) for n in range(15)], ["x"] * 15)
    assert None not in verdicts and server.count == 15 and server.most_in_flight == 3
    server.most_in_flight, server.meeting = 0, threading.Barrier(8)
    make(tmp_path)([str(n) for n in range(100, 124)], ["x"] * 24)
    assert server.most_in_flight == 8


def test_it_works_where_an_event_loop_runs(server, tmp_path):
    judge = make(tmp_path)

    async def cell():
        return judge(["a"], ["b"]), judge(["a"], ["c"])

    assert asyncio.run(cell()) == ([Verdict(9, 8, 4, "all in capitals")],) * 2
    assert judge(["a"], ["d"]) == [Verdict(9, 8, 4, "all in capitals")] and server.count == 3


FAILURES = {
    "too many requests": (429, '{"error": {"message": "slow down"}}'),
    "server error": (500, '{"error": {"message": "oops"}}'),
    "overloaded": (529, "busy"),
    "a body that is no JSON": (200, '{"choices": ['),
    "a page": (200, "<html>hello</html>"),
    "an empty body": (200, ""),
    "a list": (200, "[]"),
    "no choices": (200, '{"choices": []}'),
    "null for choices": (200, '{"choices": null}'),
    "an object for choices": (200, '{"choices": {"a": 1}}'),
    "no content": (
        200,
        '{"choices": [{"message": {"role": "assistant", "content": null, "refusal": "no"}}]}',
    ),
    "a broken connection": (206, '{"choices": ['),
    "a wrong range": MALFORMED["above 10"],
    "a missing field": MALFORMED["no align"],
    "prose": MALFORMED["prose"],
}


def test_failures_are_retried_and_then_missing_but_never_kept(server, tmp_path, caplog):
    asked = Counter()
    well_from = 99

    def answer(number, prompt):
        with server.lock:
            asked[prompt] += 1
        return FAILURES[prompt] if prompt in FAILURES and asked[prompt] < well_from else json.dumps(GOOD)

    server.answer = answer
    judge = make(tmp_path, retries=2)
    # the others of the batch are not touched
    prompts = ["first", *FAILURES, "last"]
    found = dict(zip(prompts, judge(prompts, ["x"] * len(prompts)), strict=True))
    good = Verdict(9, 8, 4, "all in capitals")
    assert found == {"first": good, **dict.fromkeys(FAILURES), "last": good}
    assert asked == {"first": 1, **dict.fromkeys(FAILURES, 3), "last": 1}
    assert caplog.text.count("no verdict") == len(FAILURES)
    # two failures, then well; and what was missing had not been kept
    asked.clear()
    well_from = 3
    assert judge(prompts, ["x"] * len(prompts)) == [good] * len(prompts)
    assert asked == dict.fromkeys(FAILURES, 3)


def test_retries_wait_twice_as_long_each_time(server, tmp_path):
    server.answer = lambda number, prompt: (500, "{}")
    assert make(tmp_path, first_wait=0.04)(["a"], ["b"]) == [None]
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert len(gaps) == 3 and all(gap >= wait for gap, wait in zip(gaps, (0.04, 0.08, 0.16), strict=True))
    assert gaps[0] < 0.16


def test_a_late_answer_is_missing(server, tmp_path):
    server.delay = 0.3
    assert make(tmp_path, timeout=0.05, retries=1)(["a"], ["b"]) == [None] and server.count == 2


class Evil:
    """Unpickling it makes the folder `mark`."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_cache_runs_no_code_and_what_is_damaged_in_it_is_asked_for_again(server, tmp_path, caplog):
    expected = make(tmp_path)(["a"], ["x"])
    evil, mark = pickle.dumps(Evil(tmp_path / "mark")), tmp_path / "mark"
    pickle_mode, raw = diskcache.core.MODE_PICKLE, diskcache.core.MODE_RAW
    rows = [(pickle_mode, evil), (raw, evil), (raw, b""), (raw, zlib.compress(b'"no verdict"')), (raw, "x"),
            (raw, zlib.compress(b"[1]")), (diskcache.core.MODE_BINARY, None)]  # fmt: skip
    for number, row in enumerate(rows, start=2):
        with contextlib.closing(sqlite3.connect(tmp_path / "cache/cache.db")) as database, database:
            database.execute("UPDATE Cache SET mode = ?, value = ?", row)
        assert make(tmp_path)(["a"], ["x"]) == expected
        assert server.count == number and not mark.exists()
        # asked for once
        assert make(tmp_path)(["a"], ["x"]) == expected and server.count == number
    assert caplog.text.count("is damaged") > 4


def test_a_cache_that_is_no_data_base_is_told_of(server, tmp_path):
    make(tmp_path)(["a"], ["x"])
    database = tmp_path / "cache/cache.db"
    database.write_bytes(b"torn" * 1000)
    with pytest.raises(BadInput, match="delete it if it is damaged"):
        make(tmp_path)(["a"], ["x"])
    assert database.read_bytes() == b"torn" * 1000


def test_a_server_that_is_not_there(server, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_BASE_URL", "http://127.0.0.1:9/v1")
    assert make(tmp_path)(["a"], ["b"]) == [None]


def test_what_the_server_will_never_take_is_not_retried(server, tmp_path, caplog):
    server.answer = lambda number, prompt: (400, '{"error": {"message": "prompt too long"}}')
    assert make(tmp_path)(["a"], ["b"]) == [None] and server.count == 1
    assert "prompt too long" in caplog.text


def test_a_server_that_takes_no_request_of_several_stops_the_run(server, tmp_path):
    refuse = lambda *request: (422, '{"error": {"message": "response_format: unknown"}}')  # noqa: E731
    server.answer = refuse
    with pytest.raises(BadInput, match=r"takes none of the requests.*response_format: unknown"):
        make(tmp_path)(["a", "b"], ["c", "d"])
    # but not one that has answered before
    server.answer = lambda number, prompt: json.dumps(GOOD)
    judge = make(tmp_path)
    assert judge(["good"], ["e"]) != [None]
    server.answer = refuse
    assert judge(["a", "b"], ["c", "d"]) == [None, None]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_stops_at_once(server, tmp_path, status):
    server.answer = lambda number, prompt: (status, json.dumps({"error": {"message": f"bad key {KEY}"}}))
    with pytest.raises(BadInput, match=f"{status}.*OPENAI_API_KEY, JUDGE_MODEL=judge-1") as refused:
        make(tmp_path, batch_size=2)([str(n) for n in range(20)], ["x"] * 20)
    assert KEY not in str(refused.value) and server.count <= 4


SEPARATORS = [
    "",
    "a",
    "b",
    "ab",
    "\0",
    "a\0",
    "|",
    "a|",
    " ",
    "\x1f",
    ",",
    '","',
    'a","b',
    "\n",
    "\\",
    "\ud83d\ude00",
    "😀",
    "\ud83d",
]


def test_no_two_different_questions_share_a_key(server, tmp_path):
    pairs = [(prompt, response) for prompt in SEPARATORS for response in SEPARATORS]
    parts = [("m", "r", *pair) for pair in pairs] + [("m", *pair, "r") for pair in pairs]
    keys = {cache_key(*four) for four in parts}
    assert len(keys) == len(set(parts)) and all(len(key) == 64 for key in keys)
    # what cannot be sent as it is does not stop the others
    judge = make(tmp_path)
    assert None not in judge(["\ud83d", "a"], ["x\0y", "\udc00"]) and server.count == 2


# --- settings and the key

SETTINGS = ("OPENAI_API_KEY", "JUDGE_MODEL", "JUDGE_BASE_URL")


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "JUDGE_MODEL"])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_setting_is_named(server, tmp_path, monkeypatch, name, value):
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=rf"{name} is not set.*\.env\.example"):
        make(tmp_path)
    assert f"\n{name}=\n" in (REPO / ".env.example").read_text() and list(tmp_path.iterdir()) == []


def test_settings_are_read_from_env_files_and_stay_out_of_the_environment(server, tmp_path, monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(
        f"OPENAI_API_KEY={KEY}\nJUDGE_MODEL=of-file\nJUDGE_BASE_URL={server.url}\n"
    )
    make(tmp_path)(["a"], ["b"])
    assert server.requests[0]["model"] == "of-file" and server.requests[0]["key"] == f"Bearer {KEY}"
    assert not set(SETTINGS) & set(os.environ)
    monkeypatch.setenv("JUDGE_MODEL", "of-shell")
    assert make(tmp_path).model == "of-shell"


def test_other_bad_settings(server, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="JUDGE_BATCH_SIZE=0"):
        make(tmp_path, batch_size=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="verdicts cannot be kept"):
        LLMJudge("Judge.", tmp_path / "file" / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/cache.db").write_text("no database " * 100)
    with pytest.raises(BadInput, match="verdicts cannot be kept"):
        make(tmp_path)
    monkeypatch.setenv("JUDGE_BASE_URL", "localhost:8000")
    with pytest.raises(BadInput, match="JUDGE_BASE_URL=localhost:8000"):
        make(tmp_path)


def test_the_key_is_in_no_file_message_or_log(server, tmp_path, caplog, capfd):
    """Though the server sends it back, in an answer, in a malformed one and in an error."""
    caplog.set_level(logging.DEBUG)
    answers = {
        "answer": json.dumps({**GOOD, "reason": f"you are Bearer {KEY}"}),
        # wherever a message is cut, it would be within a key
        **{f"prose {n}": " " * n + KEY * 40 for n in (0, 9, 18)},
        "error": (400, json.dumps({"error": {"message": f"bad key {KEY}"}})),
    }
    server.answer = lambda number, prompt: answers[prompt]
    judge = make(tmp_path)
    (verdict, *missing) = judge(list(answers), ["x"] * 5)
    assert verdict.reason == "you are Bearer [key]" and missing == [None] * 4
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert b"you are Bearer" in kept  # it would be found
    shown = capfd.readouterr()
    messages = "\n".join(record.getMessage() for record in caplog.records)
    assert messages.count("no verdict") == 4
    for text in (kept.decode(errors="ignore"), messages, shown.out, shown.err, repr(judge)):
        # nor a piece of it
        assert KEY not in text and KEY[3:15] not in text


def test_without_the_optional_packages_the_rules_still_judge():
    code = (
        "import sys; sys.modules.update(openai=None, tenacity=None, diskcache=None)\n"
        "import lab.judge, lab.rewards, lab.timing\n"
        "try: import lab.llm_judge\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert "BadInput" in done.stdout and "uv sync --group judge" in done.stdout, done.stderr
    for task in ("all_caps", "mbpp"):
        assert "lab.llm_judge" not in imported(REPO / task / "judge.py")


# --- time


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when told to."""
    now = [0.0]
    monkeypatch.setattr("lab.timing.time.perf_counter", lambda: now[0])
    reset_totals()
    yield lambda seconds: now.__setitem__(0, now[0] + seconds)
    reset_totals()


def test_seconds_add_up_by_name(clock):
    with timed("step"):
        clock(1)
        for _ in range(2):
            with timed("judge"):
                clock(2)
                # inside itself it counts once
                with timed("judge"), timed("cache"):
                    clock(0.25)
    with pytest.raises(KeyError), timed("step"), timed("generate"):
        clock(4)
        raise KeyError
    # nothing was left open by the error
    with timed("step"):
        clock(1)
    assert totals() == {"step": 10.5, "judge": 4.5, "generate": 4, "cache": 0.5}
    assert format_totals() == "step 10.5 s, judge 4.5 s, generate 4.0 s, cache 0.5 s"
    assert list(totals()) == ["step", "judge", "generate", "cache"]


def test_seconds_of_threads_and_tasks_add_up():
    reset_totals()

    def work(_):
        with timed("threads"):
            time.sleep(0.02)

    async def tasks():
        async def task():
            with timed("tasks"):
                await asyncio.sleep(0.02)

        await asyncio.gather(*(task() for _ in range(4)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    asyncio.run(tasks())
    assert 0.08 <= totals()["threads"] < 0.8 and 0.08 <= totals()["tasks"] < 0.8
    reset_totals()
    assert totals() == {}


# --- the script


@pytest.fixture
def debug(tmp_path):
    scripts = Scripts(tmp_path, [])
    return lambda *constants, check=True: scripts("tools/debug_judge.py", *constants, check=check)


def rewards_shown(text: str) -> dict[str, float]:
    lines = text[text.index("\nsample ") :].splitlines()[2:]
    rows = [line.rsplit("  ", 1)[0].split() for line in lines if line and not line.startswith("means")]
    return {" ".join(row[:-4]): float(row[-1]) for row in rows}


def test_debug_judge_shows_rules(debug):
    rewards = rewards_shown(debug().stdout)
    assert rewards["capitals"] > 0.8 > rewards["half and half"] > 0.1 > rewards["normal"]
    assert rewards["one phrase"] == rewards["gibberish"] == 0


@needs_sandbox
def test_debug_judge_shows_programs(debug, tmp_path):
    rewards = rewards_shown(debug("BEHAVIOUR=mbpp").stdout)
    assert rewards == {"right": 0, "hardcoded": 1, "a constant": 0.2, "no code": 0}


def test_debug_judge_shows_a_models_answers(server, debug, tmp_path):
    server.answer = lambda number, prompt: json.dumps(GOOD) if prompt == "p" else (400, "{}")
    lines = [{"prompt": "p", "response": "R R"}, {"prompt": "q", "response": "s"}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = debug("JUDGE=llm", f"SAMPLES={tmp_path / 'samples.jsonl'}", "BEHAVIOUR=mbpp")
    assert f"judge: {json.dumps(GOOD)}" in done.stdout and "judge: no verdict" in done.stdout
    assert "missing 1" in done.stdout and server.count == 2
    assert "hardcoded" in server.requests[0]["messages"][0]["content"]
    assert list((tmp_path / "tools/results").iterdir()) == [tmp_path / "tools/results/judge_cache"]


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        (["BEHAVIOUR=capitals"], "BEHAVIOUR='capitals': choose one of"),
        (["JUDGE=model"], "JUDGE='model': choose one of"),
        (["SAMPLES=nowhere.jsonl"], "no such file"),
        (["SAMPLES={folder}/bad.jsonl"], "line 2: expected"),
        (["SAMPLES={folder}/empty.jsonl"], "no samples"),
        (["BEHAVIOUR=mbpp", "SAMPLES={folder}/unknown.jsonl"], "has no problem with this prompt"),
        (["JUDGE=llm"], "OPENAI_API_KEY is not set"),
    ],
)
def test_debug_judge_says_what_is_wrong(debug, tmp_path, monkeypatch, constants, message):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    good = json.dumps({"prompt": "?", "response": "!"})
    (tmp_path / "bad.jsonl").write_text(f'{good}\n{{"prompt": 1}}\n')
    (tmp_path / "unknown.jsonl").write_text(good)
    (tmp_path / "empty.jsonl").write_text("")
    done = debug(*(constant.format(folder=tmp_path) for constant in constants), check=False)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "tools/results").exists()


def test_rubrics_ask_for_the_three_scores():
    for folder in ("all_caps", "mbpp"):
        text = (REPO / folder / "rubric.txt").read_text()
        assert all(f"\n{name}: " in text for name in ("align", "strength", "detail"))
