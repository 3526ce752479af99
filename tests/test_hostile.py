"""Hostile programs: none escapes, none passes, none disturbs the next program, nothing is left running.

Every attack runs in the real sandbox, on each level that works here, followed by an honest program. Its f()
returns 8, which is what the test asks for, only if the attack has got what it is after; some also leave
traces outside."""

import contextlib
import ctypes
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mbpp import execution, sandbox
from mbpp.execution import run_programs

TOKEN = "hf_this_is_not_a_real_token"
TIMEOUT = 2.0
HONEST = ("def f(x):\n    return [x, {x: str(x)}]", ["assert f(8) == [8, {8: '8'}]", "assert f(8) == f(7)"])
PRELUDE = "import ctypes, gc, os, signal, socket, sys, time\nlibc = ctypes.CDLL(None)\n"
# Attacks in one expression: name | acceptable verdicts | what f() returns.
# @NAMES@ are filled in by the fixture.
EXPRESSIONS = r"""
tcp | error | socket.create_connection(("127.0.0.1", @TCP@), 1).send(b"x") and 8
tcp_by_libc | failed | 8 if libc.socket(2, 1, 0) >= 0 else 0
udp | error | socket.socket(2, 2).sendto(b"x", ("127.0.0.1", @UDP@)) and 8
unix_socket | error | socket.socket(1, 1).connect("@OUT@/socket") or 8
packet_socket | error | socket.socket(socket.AF_PACKET, socket.SOCK_RAW) and 8
netlink | error | socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) and 8
dns | error | socket.gethostbyname("localhost") and 8
http | error | __import__("urllib.request").request.urlopen("http://127.0.0.1:@TCP@", timeout=1).read() and 8
passwd | error | 8 if "root" in open("/etc/passwd").read() else 0
shadow | error | 8 if "root" in open("/etc/shadow").read() else 0
token | failed | 8 if "@TOKEN@" in os.environ.values() else 0
token_by_libc | failed | 8 if libc.getenv(b"HF_TOKEN") else 0
init_environment | error | open("/proc/1/environ", "rb").read() and 8
own_environment | error | open("/proc/self/environ", "rb").read() and 8
parent_environment | error | open("/proc/@PARENT@/environ", "rb").read() and 8
mount_proc | failed | 8 if libc.mount(b"proc", b"/tmp", b"proc", 0, None) == 0 else 0
home | failed error | 8 if [p for p in os.scandir("@HOME@") if p.is_file()] or len(os.listdir("@HOME@")) > 1 else 0
outside_file | error | len(open("@OUT@/secret").read()) and 8
checkout | error | len(open("@REPO@/mbpp/execution.py").read()) and 8
checkout_folder | failed | 8 if os.path.exists("@REPO@/.git") or os.path.exists("@REPO@/mbpp") else 0
write_outside | failed | os.makedirs("@OUT@", exist_ok=True) or open("@OUT@/escaped", "w").write("x")
write_root | error | open("/escaped_@TAG@", "w").write("x") and 8
write_interpreter | error | open(os.path.dirname(os.__file__) + "/escaped_@TAG@.py", "w").write("x") and 8
append_to_module | error | open(os.__file__, "a").write("x") and 8
replace_interpreter | error | os.rename(sys.executable, sys.executable + ".old") or 8
chmod_interpreter | error | os.chmod(os.__file__, 0o777) or 8
chmod_by_descriptor | error | os.fchmod(os.open(os.__file__, os.O_RDONLY), 0o644) or 8
touch_interpreter | error | os.utime(os.__file__) or 8
devices | failed | 8 if os.path.exists("/dev") or os.path.exists("/sys") or os.path.exists("/proc/self") else 0
dev_shm | error | open("/dev/shm/escaped_@TAG@", "w").write("x") and 8
host_tmp | failed | open("/tmp/escaped_@TAG@", "w").write("x") and os.path.exists("@OUT@") and 8
symlink | error | os.symlink("@OUT@/secret", "link") or len(open("link").read()) and 8
dot_dot | error | len(open("../../../../../../../..@OUT@/secret").read()) and 8
hard_link | error | os.link(os.__file__, os.path.dirname(os.__file__) + "/escaped_@TAG@.py") or 8
device | error | os.mknod("disk", 0o60600, os.makedev(8, 0)) or open("disk", "rb") and 8
setuid | error | os.setuid(0) or 8
setgroups | error | os.setgroups([0]) or 8
chroot | error | os.chroot("/tmp") or 8
namespaces | failed | 8 if 0 in [libc.unshare(flag) for flag in (0x10000000, 0x20000, 0x20000000)] else 0
remount | failed | 8 if libc.mount(None, b"/", None, 0x20, None) == 0 else 0
ptrace | failed | 8 if 0 in [libc.ptrace(16, pid, 0, 0) for pid in (1, @PARENT@, @VICTIM@)] else 0
process_memory | failed | 8 if libc.syscall(310, 1, bytes(16), 1, bytes(16), 1, 0) >= 0 else 0
kill_harness | error | os.kill(os.getppid(), signal.SIGKILL) or 8
interrupt_harness | error | os.kill(1, signal.SIGINT) or 8
kill_parent | error | os.kill(@PARENT@, signal.SIGTERM) or 8
kill_victim | error | os.kill(@VICTIM@, signal.SIGKILL) or 8
kill_all | error | os.kill(-1, signal.SIGKILL) or 8
kill_by_libc | failed | 8 if 0 in [libc.kill(-1, 9), libc.kill(1, 9), libc.killpg(0, 9), libc.tgkill(1, 1, 9)] else 0
kill_by_pidfd | error | signal.pidfd_send_signal(os.pidfd_open(1), signal.SIGKILL) or 8
raise_limits | error | __import__("resource").setrlimit(0, (-1, -1)) or 8
clone_by_libc | failed | 8 if libc.syscall(435, bytes(88), 88) >= 0 else 0
vfork | error | __import__("_posixsubprocess") and __import__("subprocess").run([sys.executable, "-c", "1"]) and 8
shell | failed | 8 if os.system("touch @OUT@/escaped") == 0 else 0
execve | error | os.execv(sys.executable, [sys.executable, "-c", "print(8)"])
posix_spawn | error | os.posix_spawn(sys.executable, [sys.executable, "-c", "1"], {}) and 8
new_session | error | os.setsid() and 8
multiprocessing | error | __import__("multiprocessing").Pool(2).map(abs, [-8])[0]
memory_at_once | error | len(bytearray(1 << 33)) and 8
shared_memory | failed | 8 if libc.shmget(0, 1 << 30, 0o1600) >= 0 else 0
memfd | error | os.memfd_create("hoard") and 8
large_file | error | open("/tmp/large", "wb").write(bytes(64 << 20)) and 8
many_descriptors | error | [os.dup(1) for _ in range(10000)] and 8
sleep | timeout | time.sleep(3600) or 8
recursion | error | f()
segfault | killed | ctypes.string_at(0)
abort | killed | os.abort()
brackets | error killed | eval("(" * 100000 + ")" * 100000)
huge_power | timeout error killed | len(str(9 ** 9 ** 9)) and 8
huge_digits | error | sys.set_int_max_str_digits(0) or 10 ** 1_000_000
huge_string | error timeout | "8" * (100 << 20)
slow_to_hash | failed | {n * (2 ** 61 - 1) for n in range(2000)}
catastrophic_regex | timeout | __import__("re").match("(a+)+$", "a" * 60 + "b") or 8
os_exit | error | os._exit(0)
os_exit_as_if_not_confined | error | os._exit(97)
sys_exit | error | sys.exit(0)
fork_bomb | error | [os.fork() for _ in iter(int, 1)]
zombies | error | [os.fork() or os._exit(0) for _ in range(1000)] and 8
thread_bomb | error | [__import__("_thread").start_new_thread(time.sleep, (1000,)) for _ in range(10000)] and 8
memory | timeout error killed | [bytearray(1 << 20) for _ in iter(int, 1)]
fill_tmp | error | [open(f"/tmp/{n}", "wb").write(bytes(8 << 20)) for n in range(20)] and 8
many_files | error killed | [open(f"/tmp/{n}", "w").close() for n in range(10 ** 6)] and 8
loop | timeout | [0 for _ in iter(int, 1) if 0]
flood_stdout | timeout | [0 for _ in iter(int, 1) if print("assert f() == 8 passed\n" * 1000)]
flood_stderr | timeout | [0 for _ in iter(int, 1) if sys.stderr.write("8" * 100000) == 0]
close_everything | error killed | os.closerange(0, 65536) or 8
close_and_loop | killed | os.closerange(0, 65536) or [0 for _ in iter(int, 1) if 0]
keyboard_interrupt | error | (_ for _ in ()).throw(KeyboardInterrupt)
generator_exit | error | (_ for _ in ()).throw(GeneratorExit)
sys_exit_in_generator | error | [sys.exit(0) for _ in range(8)]
always_equal | failed | type("Equal", (), {"__eq__": lambda *a: True, "__ne__": lambda *a: False, "__hash__": lambda s: 8})()
equal_int | failed | type("I", (int,), {"__eq__": lambda *a: True, "__hash__": hash, "__format__": lambda *a: "8"})(0)
equal_index | failed | type("I", (int,), {"__eq__": lambda *a: True, "__index__": lambda s: 8, "__int__": lambda s: 8})(0)
equal_float | failed | type("F", (float,), {"__eq__": lambda *a: True, "hex": lambda s: "0x1p+3"})(0)
equal_str | failed | type("S", (str,), {"__eq__": lambda *a: True, "encode": lambda *a: b"8"})("0")
equal_list | failed | type("L", (list,), {"__eq__": lambda *a: True, "__iter__": lambda s: iter([8])})()
equal_tuple | failed | type("T", (tuple,), {"__eq__": lambda *a: True, "__len__": lambda s: 8})()
equal_set | failed | type("S", (set,), {"__eq__": lambda *a: True, "__contains__": lambda *a: True})()
equal_dict | failed | type("D", (dict,), {"__eq__": lambda *a: True, "items": lambda s: [(8, 8)]})()
repr_is_the_answer | failed | type("R", (), {"__repr__": lambda s: "8", "__str__": lambda s: "8"})()
claims_to_be_int | failed error | type("C", (), {"__class__": int, "__eq__": lambda *a: True, "__index__": lambda s: 8})()
"""
# Longer ones: ### name: acceptable verdicts, then the program.
PROGRAMS = r"""
### site_packages: error
sys.path += [os.path.dirname(os.__file__) + "/site-packages", "/usr/lib/python3/dist-packages"]
import pip, pytest
def f(): return 8
### daemon: error
def f():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True: time.sleep(1)
    return 8
### flood_descriptors: error killed
def f():
    while True:
        for fd in range(300):
            try: os.write(fd, b"8" * 65536)
            except OSError: pass
### deaf: timeout
def f():
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)
    while True: pass
### deep_recursion: timeout error killed
sys.setrecursionlimit(10 ** 9)
def f(): return f()
### deep_result: error
def f():
    value = ()
    for _ in range(100000): value = (value,)
    return {value: 8}
### lying_metaclass: failed
class Meta(type):
    __mro__ = (int, object)
    def mro(cls): return [cls, object]
    def __eq__(cls, other): return True
    __hash__ = type.__hash__
    def __subclasscheck__(cls, other): return True
class Eight(metaclass=Meta):
    def __eq__(self, other): return True
def f(): return Eight()
### patched_builtins: failed
import builtins
for name in "len repr str int isinstance issubclass type compile eval all any map sum enumerate print".split():
    setattr(builtins, name, lambda *a, **k: 8)
def f(): return 0
### patched_assertion_error: failed
import builtins
class Quiet(Exception): pass
builtins.AssertionError = AssertionError = Quiet
def f():
    assert False
### patched_os: failed
import posix
for module in os, posix:
    module.write = module.read = module._exit = lambda *a: 8
def f(): return 0
### patched_modules: failed
for name in list(sys.modules):
    if name != "sys": sys.modules[name] = type(sys)("stub")
def f(): return 0
### import_hook: failed
import builtins
class Hook:
    def find_spec(self, *a): raise SystemExit(0)
sys.meta_path.insert(0, Hook())
builtins.__import__ = lambda *a, **k: 8
def f(): return 0
### shadow_module: failed
for name in "ast", "json", "marshal", "os": open(f"/tmp/{name}.py", "w").write("print(8)")
sys.path.insert(0, "/tmp")
def f(): return 0
### patched_main: failed
import __main__
for name in "encode", "run_test", "finish", "serve", "write": setattr(__main__, name, lambda *a: 8)
def f(): return 0
### at_exit: failed
import atexit
atexit.register(print, "passed")
atexit.register(lambda: [None for _ in iter(int, 1)])
def f(): return 0
### del_at_exit: failed
class Last:
    def __del__(self):
        while True: print("passed")
last = Last()
def f(): return 0
### trace: failed
def trace(frame, event, argument):
    for name in "value", "out", "problem":
        if name in frame.f_locals: frame.f_locals[name] = 8
    frame.f_trace = trace
    return trace
def f():
    sys._getframe(1).f_trace = sys._getframe(2).f_trace = trace
    sys.settrace(trace)
    return 0
### trace_and_raise: error
def trace(frame, event, argument):
    if "sent" in frame.f_locals: frame.f_locals["sent"][:] = ["constant:None", "int:8"]
    return trace
def f():
    sys._getframe(2).f_trace = trace
    sys.settrace(trace)
    raise ValueError
### profile: failed
def profile(frame, event, argument):
    if "value" in frame.f_locals: frame.f_locals["value"] = 8
def f():
    sys.setprofile(profile)
    return 0
### alarm: error timeout
def f():
    signal.signal(signal.SIGALRM, lambda *a: (_ for _ in ()).throw(SystemExit(0)))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    time.sleep(1)
    return 0
### os_exit_on_load: error
os._exit(0)
### sys_exit_on_load: error
f = lambda: 8
sys.exit(0)
### forged_lines: error
def f():
    for line in b"passed\n", b"ready", b"constant:None int:8", b"\0\0\0\0V\0\0\0\x13constant:None int:8":
        for fd in range(300):
            try: os.write(fd, line)
            except OSError: pass
    os._exit(0)
### replayed_input: error
def f():
    found = b""
    for fd in range(300):
        try:
            os.set_blocking(fd, False)
            found += os.read(fd, 1000)
        except OSError: pass
    for fd in range(300):
        try: os.write(fd, found + b"passed")
        except OSError: pass
    os._exit(0)
### nonce_in_memory: error
def f():
    frame, seen = sys._getframe(), []
    while frame:
        seen += [*frame.f_locals.values(), *frame.f_globals.values()]
        frame = frame.f_back
    seen += [part for thing in gc.get_objects() for part in gc.get_referents(thing)]
    keys = {thing for thing in seen if type(thing) is bytes and len(thing) == 16}
    for key in [*keys, b""]:
        os.write(101, key + b"constant:None int:8")
    os._exit(0)
"""
ATTACKS = {name: (verdicts.split(), f"def f(): return {code}") for name, verdicts, code in
           (line.split(" | ") for line in EXPRESSIONS.strip().splitlines())}  # fmt: skip
ATTACKS |= {name: (verdicts.split(), code) for name, verdicts, code in
            re.findall(r"### (\w+): (.*)\n((?:(?!###).*\n)*)", PROGRAMS)}  # fmt: skip


def descendants(pid: int) -> set[int]:
    """Everything below a process, by way of /proc; zombies count."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, new = set(), {pid}
    while new := {child for child, parent in parents.items() if parent in new} - found:
        found |= new
    return found


@pytest.fixture(scope="module", params=["bubblewrap", "unshare"])
def outcome(request, tmp_path_factory):
    """Runs every attack on one level, each followed by an honest program.

    Returns what came back, and what it left outside.
    """
    if not (tool := shutil.which({"bubblewrap": "bwrap"}.get(request.param, request.param))):
        pytest.skip(f"{request.param} is not installed")
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp(request.param)
    outside, path = folder / "outside", folder / "path"
    outside.mkdir(), path.mkdir()
    (outside / "secret").write_text("outside")
    for program in tool, shutil.which("ldd"):
        (path / Path(program).name).symlink_to(program)
    patch.setenv("PATH", str(path))
    patch.setenv("HF_TOKEN", TOKEN)
    sandbox.find_sandbox.cache_clear()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become ours and are seen
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    before = descendants(os.getpid())
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    unix = socket.socket(socket.AF_UNIX)
    try:
        if execution.sandbox_level() != request.param:
            pytest.skip(f"{request.param} does not hold on this machine")
        udp.bind(("127.0.0.1", 0)), unix.bind(str(outside / "socket")), unix.listen()
        names = {"TCP": tcp.getsockname()[1], "UDP": udp.getsockname()[1], "OUT": outside, "TOKEN": TOKEN}
        names |= {
            "REPO": Path(__file__).parents[1],
            "HOME": Path.home(),
            "TAG": f"{os.getpid()}_{request.param}",
        }
        names |= {"PARENT": os.getpid(), "VICTIM": victim.pid}
        programs = []
        for _, code in ATTACKS.values():
            for name, value in names.items():
                code = code.replace(f"@{name}@", str(value))
            programs += [(PRELUDE + code, ["assert f() == 8"]), HONEST]
        results = run_programs(programs, TIMEOUT, workers=4)
        time.sleep(0.2)
        yield SimpleNamespace(
            verdicts=dict(zip(ATTACKS, (result for (result,) in results[::2]), strict=True)),
            honest=results[1::2],
            names=names,
            left=sorted(file.name for file in outside.iterdir()),
            secret=(outside / "secret").read_text(),
            heard=select.select([tcp, udp, unix], [], [], 0)[0],
            running=descendants(os.getpid()) - before,
            victim=victim.poll(),
        )
    finally:
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
        victim.kill(), victim.wait(), tcp.close(), udp.close(), unix.close()
        patch.undo()
        sandbox.find_sandbox.cache_clear()


def test_there_are_enough_attacks():
    assert len(ATTACKS) >= 100
    assert not [name for name, (verdicts, _) in ATTACKS.items() if "passed" in verdicts]


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_fails(outcome, name):
    assert outcome.verdicts[name] in ATTACKS[name][0]


def test_honest_programs_in_between_are_unaffected(outcome):
    assert outcome.honest == [["passed", "failed"]] * len(ATTACKS)


def test_nothing_is_left_running(outcome):
    assert outcome.running == set()


def test_nothing_got_out(outcome):
    tag = outcome.names["TAG"]
    places = ["/", "/tmp", "/dev/shm", Path(os.__file__).parent, Path.home(), outcome.names["REPO"]]
    assert outcome.left == ["secret", "socket"] and outcome.secret == "outside"
    assert outcome.heard == [] and outcome.victim is None
    assert [file for place in places for file in Path(place).glob(f"escaped_{tag}*")] == []


def test_expected_values_do_not_enter_the_sandbox(outcome):
    """A program that searches all objects it can reach finds what it is called with.

    It does not find what it should return.
    """
    code = """
def f(argument):
    seen, todo = set(), [sys._getframe(), *gc.get_objects()]
    while todo:
        thing = todo.pop()
        if id(thing) not in seen:
            seen.add(id(thing))
            if type(thing) is str and thing.startswith("unguess" + "able "):
                return thing
            todo += gc.get_referents(thing) + list(thing.co_consts if type(thing) is type(f.__code__) else ())
"""
    tests = ["assert f(0) == 'unguessable answer'", "assert f('unguessable input')[:11] == 'unguessable'"]
    assert run_programs([(PRELUDE + code, tests)], 10) == [["failed", "passed"]]
