"""The walls around model-written code: the best sandbox that really holds here, and runs of tests in it.

Level "bubblewrap" or, where that does not work, "unshare": own user, network, process, mount, IPC and host
name spaces; a root that shows the interpreter read-only, an empty small /tmp and nothing else (no /proc, no
/etc/passwd); the user nobody without capabilities. There, and on level "none" (refused unless SANDBOX =
"none"): a fresh interpreter per program without environment or site-packages, rlimits, and a system call
filter, so that a program can start no process or thread, open no socket, signal or trace nothing. Level
"none" does not wall off your files and what your other processes show in /proc. A level counts only if a
probe inside, first with the filter off, finds its walls standing. Linux only: x86-64, or a machine with the
generic system call table (aarch64, riscv64)."""

import functools
import glob
import marshal
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mbpp.judging import Test, judge, parse

START_SECONDS = 60.0  # for a sandbox to be set up; the clock of the program starts after that
GRACE_SECONDS = 2.0  # for a sandbox to end by itself after the time limit
TMP_BYTES = 16 << 20

_SOURCE = Path(__file__).with_name("harness.py").read_text("utf-8")
_HARNESS = marshal.dumps(compile(_SOURCE, "harness.py", "exec"))
_BOOT = """import os, marshal, builtins
source = marshal.loads(os.read(0, int.from_bytes(os.read(0, 8), "big")))
exec(source, {"__name__": "harness", "__builtins__": dict(vars(builtins))})"""  # away from __main__
# name:number on x86-64:number in the generic table.
# All calls from 424 up, numbered alike everywhere, are refused too.
_FORBIDDEN = """ptrace:101:117 process_vm_readv:310:270 process_vm_writev:311:271 kcmp:312:272 clone:56:220 fork:57:-
vfork:58:- execve:59:221 execveat:322:281 kill:62:129 tkill:200:130 tgkill:234:131 rt_sigqueueinfo:129:138
rt_tgsigqueueinfo:297:240 socket:41:198 mount:165:40 umount2:166:39 pivot_root:155:41 chroot:161:51 unshare:272:97
setns:308:268 setsid:112:157 setpgid:109:154 prctl:157:167 seccomp:317:277 prlimit64:302:261 personality:135:92
add_key:248:217 request_key:249:218 keyctl:250:219 bpf:321:280 perf_event_open:298:241 userfaultfd:323:282
io_setup:206:0 memfd_create:319:279 shmget:29:194 msgget:68:186 semget:64:190 mq_open:240:180 timer_create:222:107
open_by_handle_at:304:265 fanotify_init:300:262 init_module:175:105 finit_module:313:273 kexec_load:246:104
kexec_file_load:320:294 reboot:169:142 swapon:167:224 syslog:103:116 sync:162:81 syncfs:306:267
iopl:172:- ioperm:173:- modify_ldt:154:-"""


class Sandbox(NamedTuple):
    level: str
    command: list[str]  # that starts the harness
    layout: tuple | None  # of the root, if the harness must build it: paths to show, to mask, bytes of /tmp


def execute(
    sandbox: Sandbox, code: str, tests: Sequence[Test], timeout: float, seccomp: bytes
) -> list[tuple]:
    """Per test, how its worker ended, and its message (bytes) if it sent a value.

    The ends are b"V"alue, b"E"xit, b"K"illed and b"T"imeout.
    """
    nonces = [os.urandom(16) for _ in tests]
    orders = marshal.dumps((code, [test.steps for test in tests], seccomp, sandbox.layout, timeout))
    answers, ready, poller = b"", True, select.poll()
    with tempfile.TemporaryFile() as stdin:
        stdin.writelines(len(block).to_bytes(8, "big") + block for block in (_HARNESS, orders))
        stdin.writelines(nonces)
        stdin.seek(0)
        pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}  # no worker has them
        child = subprocess.Popen(sandbox.command, **pipes, env={}, cwd="/", start_new_session=True)
    with child:
        deadline = time.monotonic() + START_SECONDS
        try:
            poller.register(child.stdout, select.POLLIN)
            while len(answers) < 5 + 200_000 * len(tests):
                ready = poller.poll(max(0, deadline - time.monotonic()) * 1000)
                if not ready or not (chunk := os.read(child.stdout.fileno(), 1 << 16)):
                    break
                deadline = deadline if answers else time.monotonic() + timeout + GRACE_SECONDS
                answers += chunk
            child.wait(GRACE_SECONDS if ready else 0)  # the harness keeps the time and ends all by itself
        except subprocess.TimeoutExpired:
            pass
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
        if not answers.startswith(b"ready") or 0 < (child.returncode or 0) < 128:
            raise RuntimeError(f"the sandbox failed: {child.stderr.read().decode(errors='replace').strip()}")
    results = [(b"K" if ready else b"T", b"")] * len(tests)
    position = len(b"ready")
    while position + 9 <= len(answers):
        index, status, size = struct.unpack_from(">IcI", answers, position)
        nonce, message = answers[position + 9 :][:16], answers[position + 9 :][16:size]
        if status == b"X":
            raise RuntimeError("a program could not be confined, so it was not run")
        results[index] = (status, message) if status != b"V" or nonce == nonces[index] else (b"E", b"")
        position += 9 + size
    return results


def system_call_filter() -> bytes:
    """A seccomp program for this machine; empty where its system calls are not known.

    The probe has the last word.
    """
    tables = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2), "riscv64": (0xC00000F3, 2)}
    if os.uname().machine not in tables:
        return b""
    architecture, column = tables[os.uname().machine]
    rules = [(0x20, 0, 0, 4), (0x15, 1, 0, architecture), (0x06, 0, 0, 0x80000000)]  # a foreign table: kill
    rules += [(0x20, 0, 0, 0), (0x35, 0, 1, 424), (0x06, 0, 0, 0x50026)]  # ENOSYS: libc falls back on others
    for number in [call.split(":")[column] for call in _FORBIDDEN.split()]:
        rules += [(0x15, 0, 1, int(number)), (0x06, 0, 0, 0x50001)] if number != "-" else []  # EPERM
    return b"".join(struct.pack("<HBBI", *rule) for rule in [*rules, (0x06, 0, 0, 0x7FFF0000)])


def _interpreter() -> tuple[list[str], list[str]]:
    """Paths that this Python cannot do without, itself first, and directories of packages below them."""
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    listing = [python, "-I", "-S", "-B", "-c", "import sys; print(*sys.path, sep='\\n')"]
    library = subprocess.run(listing, env={}, capture_output=True, text=True, check=True).stdout.splitlines()
    extensions = [path for folder in library for path in glob.glob(glob.escape(folder) + "/*.so")]
    unused = re.compile(r"/(_tkinter|_ssl|_hashlib|_curses|readline|_sqlite3|nis|_g?dbm|_uuid|_crypt)")
    binaries = [python, *(path for path in extensions if not unused.search(path))]
    ldd = [shutil.which("ldd") or "true", *binaries]
    linked = re.findall(r"(/\S+) \(0x", subprocess.run(ldd, env={}, capture_output=True, text=True).stdout)
    shown = {p: f"{p}/" for p in [python, *library, *linked, "/etc/ld.so.cache"] if os.path.exists(p)}
    shown = [path for path in shown if not path.startswith(tuple(shown.values()))]
    packages = [f"{folder}/{name}" for folder in library for name in ("site-packages", "dist-packages")]
    return shown, [path for path in packages if os.path.isdir(path)]


def _candidates() -> Iterator[Sandbox]:
    """Every level that is installed, best first, and "none"."""
    shown, masked = _interpreter()
    harness = [shown[0], "-I", "-S", "-B", "-c", _BOOT]
    if bwrap := shutil.which("bwrap"):
        options = "--unshare-all --unshare-user --uid 65534 --gid 65534 --cap-drop ALL --hostname sandbox"
        options += " --die-with-parent --new-session --as-pid-1"
        sized = "--size" in subprocess.run([bwrap, "--help"], capture_output=True, text=True).stdout
        options += f" --size {TMP_BYTES} --tmpfs /tmp" if sized else " --dir /tmp"  # before 0.7: read-only
        mounts = [("--ro-bind", path, path) for path in shown] + [("--tmpfs", path) for path in masked]
        mounts += [("--remount-ro", path) for path in [*masked, "/"]] + [("--chdir", "/tmp")]
        yield Sandbox("bubblewrap", [bwrap, *options.split(), *sum(mounts, ()), *harness], None)
    if unshare := shutil.which("unshare"):
        options = "--user --map-user=65534 --map-group=65534 --keep-caps --fork --kill-child"
        options += " --mount --net --pid --ipc --uts --cgroup"
        yield Sandbox("unshare", [unshare, *options.split(), *harness], (shown, masked, TMP_BYTES))
    yield Sandbox("none", harness, None)


@functools.lru_cache(maxsize=1)
def find_sandbox() -> tuple[Sandbox, str]:
    """The best level at which every attack of the probe raises, and what is wrong with those above it."""
    complaints = []
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.NamedTemporaryFile() as secret:
        outside = [secret.name, os.path.abspath(__file__), "/etc/passwd", "/proc/self/environ"]
        attacks = [f"open({path!r})" for path in outside]
        attacks += ["open(os.__file__, 'a')", "open(sys.executable, 'a')", "open('/file', 'w')"]
        attacks += ["os.chmod(os.__file__, 0o644)", f"socket.create_connection({server.getsockname()}, 1)"]
        attacks += ["os.setuid(0)", "os.chroot('/')", "1 / (os.getuid() != 65534)", "bytearray(1 << 33)"]
        attacks += ["1 / (os.getppid() != 1)"] + [f"os.kill({os.getpid()}, 0)"] * (os.getpid() > 99)
        for sandbox in _candidates():
            if sandbox.level == "none":
                break
            holes = []
            for tried, seccomp in (attacks, b""), (["os.fork() or os._exit(0)"], system_call_filter()):
                tests = [parse(f"assert [{attack}]") for attack in [*tried, "os"]]  # the last must work
                try:
                    results = execute(sandbox, "import os, socket, sys", tests, 10.0, seccomp)
                except (OSError, RuntimeError) as problem:
                    holes.append(str(problem).strip())
                    break
                *verdicts, control = map(judge, tests, *zip(*results, strict=True))
                holes += [
                    attack for attack, verdict in zip(tried, verdicts, strict=True) if verdict != "error"
                ]
                holes += ["it does not run an honest program"] * (control != "passed")
            if not holes:
                break
            complaints.append(f"{sandbox.level} does not hold: {', '.join(holes)}")
    print(f"mbpp: sandbox level {sandbox.level}", *complaints, sep="; ", file=sys.stderr)
    return sandbox, "; ".join(complaints) or "neither bwrap nor unshare is installed"


def sandbox_level() -> str:
    """How programs are walled in here: "bubblewrap", "unshare" or "none".

    Probed and printed at the first use.
    """
    return find_sandbox()[0].level
