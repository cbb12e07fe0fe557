"""Signals that end the command exactnorm: it dies of them, removes what it has begun and leaves the old output."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_command import COMMAND, directory  # noqa: F401
from test_command_files import wait_for_output

SIGNALS = [
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGPIPE,
    signal.SIGKILL,
]
# One element a block: work of half a minute.
WORK = ["x.npy", "--channel-axes", "1", "--block-bytes", "4"]
NORMALIZE = ["normalize", "-o", "y.npy", "--statistics", "s.json", *WORK]


@pytest.fixture(autouse=True)
def inputs(directory: Path) -> None:  # noqa: F811
    np.save("x.npy", np.zeros((4_000_000, 1), np.float32))
    Path("y.npy").write_bytes(b"old")
    Path("s.json").write_bytes(b"old")


def without_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def start(*arguments: str, prepare: Callable[[], None] = without_core_dumps) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(COMMAND), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def expect_nothing_left() -> None:
    assert sorted(os.listdir()) == ["s.json", "x.npy", "y.npy"]
    assert Path("y.npy").read_bytes() == Path("s.json").read_bytes() == b"old"


@pytest.fixture
def no_unnamed_files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system calls of a file system that has only files with names, as NFS."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <fcntl.h>\n#include <stdarg.h>\n"
        "int open(const char* path, int flags, ...) {\n"
        "  if ((flags & O_TMPFILE) == O_TMPFILE) { errno = EOPNOTSUPP; return -1; }\n"
        "  va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list);\n"
        '  return ((int (*)(const char*, int, ...))dlsym(RTLD_NEXT, "open"))(path, flags, mode);\n'
        "}\n"
    )
    shim = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, folder / "shim.c", "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(shim))


@pytest.mark.usefixtures("no_unnamed_files")
@pytest.mark.parametrize("sent", SIGNALS[:-1])
def test_where_all_files_have_names(sent: signal.Signals) -> None:
    process = start(*NORMALIZE)
    wait_for_output(process, 100)
    assert [path.name[:7] for path in Path().iterdir() if path.name.startswith(".")] == [".y.npy."]
    process.send_signal(sent)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -sent
    expect_nothing_left()


@pytest.mark.usefixtures("no_unnamed_files")
def test_signals_at_any_moment_where_all_files_have_names() -> None:
    test_signals_at_any_moment()


@pytest.mark.parametrize("sent", SIGNALS)
@pytest.mark.parametrize("pass_number", [1, 2])
def test_normalize(sent: signal.Signals, pass_number: int) -> None:
    if pass_number == 1:
        process = start(*NORMALIZE)
        wait_for_output(process, 100)
    else:
        np.save("m.npy", np.zeros(1))
        np.save("v.npy", np.ones(1))
        process = start(*NORMALIZE, "--running-mean", "m.npy", "--running-variance", "v.npy")
        wait_for_output(process, 1000)
        os.remove("m.npy")
        os.remove("v.npy")
    process.send_signal(sent)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -sent
    expect_nothing_left()


@pytest.mark.parametrize("sent", SIGNALS)
def test_statistics(sent: signal.Signals) -> None:
    process = start("statistics", *WORK)
    wait_until(lambda: "/x.npy\n" in Path(f"/proc/{process.pid}/maps").read_text())
    process.send_signal(sent)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -sent
    expect_nothing_left()


def test_while_standard_input_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", "temporary")
    process = start("statistics", "-", "--channel-axes", "1")
    # The copy has no name from its first moment on.
    wait_until(lambda: "temporary" in str([os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    os.rmdir("temporary")
    expect_nothing_left()


def test_a_shell_sees_128_and_the_number() -> None:
    line = f"{COMMAND} {' '.join(NORMALIZE)} & sleep 0.3; kill -USR2 $!; wait $!; echo $?"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.stdout == f"{128 + signal.SIGUSR2}\n"
    expect_nothing_left()


def test_many_signals_at_once() -> None:
    process = start(*NORMALIZE)
    wait_for_output(process, 100)
    for sent in SIGNALS * 3:
        process.send_signal(sent)
    process.communicate(timeout=30)
    assert -process.returncode in SIGNALS
    expect_nothing_left()


def test_signals_at_any_moment() -> None:
    """Also while files are made and renamed: either all of the output is there, or none."""
    np.save("x.npy", np.zeros((50, 1), np.float32))
    arguments = ["normalize", "-o", "y.npy", "--statistics", "s.json", "x.npy", "--channel-axes", "1"]
    done = 0
    for attempt in range(60):
        Path("y.npy").write_bytes(b"old")
        Path("s.json").write_bytes(b"old")
        process = start(*arguments)
        time.sleep(0.0005 * attempt)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode in (0, -signal.SIGTERM)
        assert sorted(os.listdir()) == ["s.json", "x.npy", "y.npy"]
        old = [Path(name).read_bytes() == b"old" for name in ("y.npy", "s.json")]
        assert old[0] == old[1]
        done += process.returncode == 0
    assert done < 60


def test_ignored_signals_stay_ignored() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as shells do for jobs in the background

    process = start(*NORMALIZE, prepare=ignore)
    wait_for_output(process, 100)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    expect_nothing_left()


def test_a_limit_on_processor_time() -> None:
    def limit() -> None:
        without_core_dumps()
        resource.setrlimit(resource.RLIMIT_CPU, (1, 20))

    process = start(*NORMALIZE, prepare=limit)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGXCPU
    expect_nothing_left()


@pytest.mark.parametrize("reader", ["true", "head -c 1 > /dev/null", "head -n 1 > /dev/null"])
def test_a_reader_that_does_not_read_to_the_end(reader: str) -> None:
    np.save("wide.npy", np.ones((2, 100_000), np.float32))
    for arguments in ["statistics wide.npy", "normalize wide.npy -o - --statistics s.json"]:
        line = f"{COMMAND} {arguments} --channel-axes 1 | {reader}; echo ${{PIPESTATUS[0]}}"
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert (result.stdout, result.stderr) == (f"{128 + signal.SIGPIPE}\n", "")
    os.remove("wide.npy")
    expect_nothing_left()


def test_a_closed_pipe_where_the_signal_is_ignored() -> None:
    np.save("wide.npy", np.ones((2, 100_000), np.float32))
    script = (
        "import signal, subprocess, sys; signal.signal(signal.SIGPIPE, signal.SIG_IGN);"
        "first = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, restore_signals=False);"
        "first.stdout.close(); sys.exit(first.wait())"
    )
    for arguments, message in [
        ("statistics wide.npy --channel-axes 1", "standard output: cannot be written"),
        ("normalize wide.npy -o - --channel-axes 1",
         "standard output: cannot be written (Broken pipe); expected a reader of 800000 bytes of data"),
    ]:  # fmt: skip
        line = [sys.executable, "-c", script, str(COMMAND), *arguments.split()]
        result = subprocess.run(line, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (1, f"exactnorm: error: {message}\n")
    os.remove("wide.npy")
    expect_nothing_left()
