"""The program inside the sandbox: a trusted process that forks a hostile worker for every test.

`sandbox.py` compiles this file and sends it in. The first process takes its orders from descriptor 0, never
runs a line of the judged program, and alone holds the answer descriptor 1. A worker loads the program afresh,
computes the values its test needs and sends them up its own pipe behind the test's nonce. That comes down a
second pipe: the first process learns it after it has forked the worker, the worker after the test has run.
Names resolve in a private copy of the builtins, so that patching the real ones changes nothing here."""

import builtins
import marshal
import os
import resource
import select
import sys
from _ctypes import call_function, dlopen, dlsym  # importing `ctypes` would take 3 ms
from _signal import SIG_IGN, SIGINT, SIGKILL, default_int_handler, signal
from array import array
from os import _exit, read, write
from time import monotonic

LIBC = dlopen(None, 0)
AT_ONCE = 8  # workers side by side: a test that hangs does not hold up the others
MESSAGE_BYTES = 100_000  # of one worker: more could only serve to keep the parent busy
TMP_FILES = 2_000  # each costs kernel memory, even when it is empty
LIMITS = {"AS": 512 << 20, "FSIZE": 16 << 20, "NOFILE": 64, "NPROC": 0, "CORE": 0}  # of a worker
BIND, SAFE, FROZEN = 0x1000, 0x6, 0x1021  # mount flags: BIND; NOSUID, NODEV; BIND, REMOUNT, RDONLY
DEPTH = 64  # of nested containers
BUILTIN = {  # type -> what an instance stores; unbound methods, so that a subclass cannot answer in its place
    int: lambda value: int.__format__(value, "x"),  # not decimal: linear time, and no limit on the digits
    float: float.hex,
    complex: complex.__repr__,
    str: lambda value: str.encode(value, "utf-8", "surrogatepass").hex(),
    bytes: bytes.hex,
    bytearray: bytearray.hex,
    tuple: lambda value: [*tuple.__iter__(value)],
    list: lambda value: [*list.__iter__(value)],
    set: lambda value: [*set.__iter__(value)],
    frozenset: lambda value: [*frozenset.__iter__(value)],
    type({}.keys()): lambda value: [*value],
    type({}.items()): lambda value: [*value],
    dict: lambda value: [part for item in dict.items(value) for part in item],
}


def call(name, *arguments):
    if call_function(dlsym(LIBC, name), arguments) != 0:
        raise OSError(f"{name} failed")


def build_root(shown, masked, tmp_bytes):
    """What bubblewrap does before it starts us and `unshare` does not.

    That is a private read-only root, and no capabilities.
    """
    root = "/proc"  # is always there to be mounted over
    call("mount", b"none", root.encode(), b"tmpfs", SAFE, b"size=1m,mode=755")
    for path in shown:
        os.makedirs(root + (path if os.path.isdir(path) else os.path.dirname(path)), exist_ok=True)
        if not os.path.isdir(path):
            os.close(os.open(root + path, os.O_CREAT))
        call("mount", path.encode(), (root + path).encode(), None, BIND, None)
        call("mount", None, (root + path).encode(), None, FROZEN | SAFE, None)
    os.mkdir(root + "/tmp")
    for path, flags in [(path, SAFE | 1) for path in masked] + [("/tmp", SAFE)]:
        size = f"size={tmp_bytes},nr_inodes={TMP_FILES}"
        call("mount", b"none", (root + path).encode(), b"tmpfs", flags, size.encode())
    os.mkdir(root + "/old")
    call("pivot_root", root.encode(), (root + "/old").encode())
    os.chdir("/tmp")
    call("umount2", b"/old", 2)  # MNT_DETACH
    os.rmdir("/old")
    call("mount", None, b"/", None, FROZEN | SAFE, None)
    call("sethostname", b"sandbox", 7)
    call("capset", (0x20080522).to_bytes(8, "little"), bytes(24))


def confine(seccomp, seconds):
    """Of a worker, for good: rlimits, death with the first process, no new privileges.

    And the system call filter.
    """
    for name, limit in {**LIMITS, "CPU": int(seconds) + 2}.items():
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (limit, limit))
    call("prctl", 1, SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if seccomp:
        rules = array("B", seccomp)
        program = array("Q", [len(rules) // 8, rules.buffer_info()[0]])  # struct sock_fprog, little-endian
        call("prctl", 22, 2, program.tobytes(), 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def encode(value, out, strangers, depth=0):
    """Append postfix tokens for `value`: what its builtin base stores, whatever its own class pretends.

    A value without such a base is a numbered stranger. Two strangers share a number if they are of one type
    and equal."""
    if depth > DEPTH or len(out) > MESSAGE_BYTES:
        raise ValueError("too deep or too large")
    if value is None or value is True or value is False:
        return out.append(f"constant:{value}")
    for base, stored in BUILTIN.items():
        if issubclass(type(value), base):
            content = stored(value)
            if type(content) is list:
                for part in content:
                    encode(part, out, strangers, depth + 1)
                content = len(content)
            return out.append(f"{base.__name__}:{content}")
    same = [n for n, other in enumerate(strangers) if type(other) is type(value) and other == value]
    out.append(f"{'stranger' if value else 'falsy'}:{same[0] if same else len(strangers)}")
    strangers.append(value)


def run_test(code, steps, receive, send):
    """In a worker: load, compute, send.

    Never returns: no exit handler, `__del__` or hook gets the last word.
    """
    untrace, unprofile, sent, strangers = sys.settrace, sys.setprofile, (), []
    try:
        module = type(sys)("program")
        module.__builtins__, sys.modules["program"] = builtins, module
        for step in [compile(code, "<program>", "exec", dont_inherit=True), *steps]:
            # One line: a trace function left behind is gone before `value` exists for it to change.
            value = (eval(step, module.__dict__), untrace(None), unprofile(None))[0]
            out = []
            encode(value, out, strangers)
            if sum(map(len, (*sent, *out))) + len(out) > MESSAGE_BYTES - 1000:
                raise ValueError("too large")
            sent += (",".join(out),)
    except BaseException as problem:
        untrace(None), unprofile(None)
        sent += ("!a" if issubclass(type(problem), AssertionError) else "!e",)
    finally:
        try:
            message = read(receive, 16) + " ".join(sent).encode()
            while message:
                message = message[write(send, message) :]
        finally:
            _exit(0)


def start_worker(code, steps, seccomp, seconds, sink):
    """Fork a worker for one test; returns its pid and the read end of its pipe."""
    (receive, nonce_end), (output, send) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            # An empty pipe, its write end closed below: no /dev/null, which root could chmod from inside.
            empty, _ = os.pipe()
            for source, target in (empty, 0), (sink, 1), (sink, 2), (receive, 100), (send, 101):
                os.dup2(source, target)
            os.closerange(3, 100)
            signal(SIGINT, default_int_handler)
            confine(seccomp, seconds)
            write(101, b"+")
        except BaseException:
            _exit(97)
        run_test(code, steps, 100, 101)
    write(nonce_end, read(0, 16))  # only now: the worker's memory is a copy of this process's before
    for fd in receive, nonce_end, send:
        os.close(fd)
    return pid, output


def finish(index, pid, output, data, status):
    """Reap a worker, killed if it still runs, and answer.

    The answer is the number of its test, status, length of message, message.
    """
    os.kill(pid, SIGKILL)  # it is not reaped yet, so the pid is still its own
    ended = os.waitpid(pid, 0)[1]
    os.close(output)
    if not data and ended == 97 << 8:
        status = b"X"  # not confined, so nothing was run
    elif not status:
        status = b"K" if os.WIFSIGNALED(ended) else b"V"
    message = data[1:] if status == b"V" else b""
    answer = index.to_bytes(4, "big") + status + len(message).to_bytes(4, "big") + message
    while answer:
        answer = answer[write(1, answer) :]


def serve():
    """Orders: code, steps of each test, filter, layout of the root, seconds. Answers as the workers end."""
    code, tests, seccomp, layout, seconds = marshal.loads(read(0, int.from_bytes(read(0, 8), "big")))
    signal(SIGINT, SIG_IGN)
    if layout:
        build_root(*layout)
    write(1, b"ready")
    deadline, running, waiting, poller = monotonic() + seconds, {}, list(enumerate(tests)), select.poll()
    printed, sink = os.pipe()  # what the workers print is read and forgotten
    poller.register(printed, select.POLLIN)
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            index, steps = waiting.pop(0)
            pid, output = start_worker(code, steps, seccomp, seconds, sink)
            running[output] = index, pid, output, bytearray()
            poller.register(output, select.POLLIN)
        space, left = os.statvfs("/tmp"), deadline - monotonic()
        crowded = os.getpid() == 1 and space.f_files - space.f_ffree > TMP_FILES
        status = b"T" if left <= 0 else b"K" if crowded else b""
        for output in list(running) if status else [fd for fd, _ in poller.poll(min(left, 0.05) * 1000)]:
            chunk = b"" if status else read(output, 65536)
            if output == printed:
                continue
            data = running[output][3]
            data += chunk
            if not chunk or len(data) > MESSAGE_BYTES:
                poller.unregister(output)
                finish(*running.pop(output), status)


serve()
