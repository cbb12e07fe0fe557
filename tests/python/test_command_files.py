"""What the command exactnorm does to files: permissions, full disks, closed streams, and files that others shorten."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from test_command import COMMAND, digest, directory, run, sample, succeed  # noqa: F401

NORMALIZE = ["normalize", "x.npy", "-o", "y.npy", "--channel-axes", "1"]


def files() -> set[str]:
    return set(os.listdir())


def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


def wait_until_mapped(process: subprocess.Popen[bytes], name: str) -> None:
    deadline = time.monotonic() + 30
    while f"/{name}\n" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)


def outputs_of(process: int) -> list[Path]:
    """The outputs that a process has open in this directory, which have a hidden name or none."""
    links = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = os.readlink(link)
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith(f"{Path.cwd()}/") and (target.endswith("(deleted)") or "/.y.npy." in target):
            links.append(link)
    return links


def wait_for_output(process: subprocess.Popen[bytes], size: int) -> None:
    """Wait until a process has written so many bytes of an output."""
    deadline = time.monotonic() + 30
    while True:
        try:
            if any(os.stat(output).st_size >= size for output in outputs_of(process.pid)):
                return
        except FileNotFoundError:
            pass
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)


# --- files that get shorter while they are read ---

PARTS = [128, 129, 4096, 100_000, 1_000_000]  # bytes that are left; the first two end within a page


def expect_cut_short(process: subprocess.Popen[bytes], name: str, size: int, left: int, standard_input: bytes) -> None:
    output, errors = process.communicate(standard_input, timeout=60)
    assert (process.returncode, output) == (1, b"")
    assert errors.decode() == (
        f"exactnorm: error: {name}: was cut short from {size} to {left} bytes while it was read; "
        "expected a file that stays as it is\n"
    )


@pytest.mark.parametrize("left", [0, *PARTS])
@pytest.mark.parametrize("threads", [1, 3])
def test_statistics_of_a_file_that_is_cut_short(left: int, threads: int) -> None:
    np.save("x.npy", np.ones((300_001, 1), np.float32))
    np.save("end.npy", np.ones((1, 1)))
    size = os.stat("x.npy").st_size
    # It has opened the first input when it waits for the second.
    process = start("statistics", "x.npy", "-", "--channel-axes", 1, "--threads", threads)
    wait_until_mapped(process, "x.npy")
    os.truncate("x.npy", left)
    expect_cut_short(process, "x.npy", size, left, Path("end.npy").read_bytes())
    assert files() == {"x.npy", "end.npy"}


@pytest.mark.parametrize("left", [0, *PARTS])
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_normalizing_a_file_that_is_cut_short(left: int, dtype: str) -> None:
    np.save("x.npy", np.ones((300_001, 1), dtype))
    np.save("gamma.npy", np.ones(1))
    Path("y.npy").write_bytes(b"old")
    size = os.stat("x.npy").st_size
    process = start(*NORMALIZE, "--gamma", "-", "--statistics", "s.json")
    wait_until_mapped(process, "x.npy")
    os.truncate("x.npy", left)
    expect_cut_short(process, "x.npy", size, left, Path("gamma.npy").read_bytes())
    assert files() == {"x.npy", "gamma.npy", "y.npy"}
    assert Path("y.npy").read_bytes() == b"old"


def test_a_file_that_is_cut_short_while_the_output_is_written() -> None:
    # One element a block: work of minutes.
    np.save("x.npy", np.zeros((4_000_000, 1), np.float32))
    np.save("mean.npy", np.zeros(1))
    np.save("variance.npy", np.ones(1))
    running = ["--running-mean", "mean.npy", "--running-variance", "variance.npy"]
    size = os.stat("x.npy").st_size
    process = start(*NORMALIZE, "--block-bytes", 4, *running)
    wait_for_output(process, 1000)
    os.truncate("x.npy", 2000)
    expect_cut_short(process, "x.npy", size, 2000, b"")
    assert files() == {"x.npy", "mean.npy", "variance.npy"}


def test_a_file_that_is_replaced_meanwhile_does_no_harm() -> None:
    x = sample()
    np.save("x.npy", x)
    np.save("gamma.npy", np.ones(5))
    succeed(*NORMALIZE)
    expected = digest("y.npy")
    process = start(*NORMALIZE, "--gamma", "-")
    wait_until_mapped(process, "x.npy")
    Path("other").write_bytes(b"short")
    os.rename("other", "x.npy")
    assert process.communicate(Path("gamma.npy").read_bytes()) == (b"", b"")
    assert digest("y.npy") == expected


# --- no room ---


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))


@pytest.mark.parametrize("ignored", [False, True])
def test_a_limit_on_file_sizes_is_an_error(ignored: bool) -> None:
    np.save("x.npy", sample())
    Path("y.npy").write_bytes(b"old")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        process = start(*NORMALIZE, preexec_fn=limit_file_size)
        output, errors = process.communicate()
    finally:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python has it
    assert (process.returncode, output) == (1, b"")
    assert errors.decode() == (
        "exactnorm: error: y.npy: cannot be written (File too large); expected room for 3360 bytes of data "
        "under the limit on file sizes (ulimit -f)\n"
    )
    assert files() == {"x.npy", "y.npy"}
    assert Path("y.npy").read_bytes() == b"old"


def on_a_small_disk(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the directory `small` as a disk of 64 KiB; skip the test where that needs rights we lack."""
    os.mkdir("small")
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k none small || exit 99; eval "$1"', "sh"]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    probe = subprocess.run([*mount, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"may not mount a file system: {probe.stderr.strip()}")
    return subprocess.run([*mount, script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["normalize", "small statistics"])
def test_a_full_disk_is_an_error_and_leaves_nothing(command: str) -> None:
    if command == "normalize":
        np.save("x.npy", np.ones((30_000, 1), np.float32))
        line, contents = "-o small/y.npy", "120000 bytes of data"
        name = "small/y.npy"
    else:
        np.save("x.npy", np.ones((1, 30_000), np.float32))
        line, contents = "-o y.npy --statistics small/s.json", "the statistics"
        name = "small/s.json"
    result = on_a_small_disk(
        f"echo old > {name}; {COMMAND} normalize x.npy --channel-axes 1 {line}; echo $?; cat {name}; ls -A . small"
    )
    assert result.stderr == (
        f"exactnorm: error: {name}: cannot be written (No space left on device); expected room for {contents}\n"
    )
    assert result.stdout == f"1\nold\n.:\nsmall\nx.npy\n\nsmall:\n{name.split('/')[1]}\n"


def test_a_copy_of_standard_input_that_finds_no_room() -> None:
    np.save("x.npy", np.ones((30_000, 1), np.float32))
    result = on_a_small_disk(
        f"cat x.npy | TMPDIR=small {COMMAND} statistics - --channel-axes 1; echo $?; ls -A small"
    )
    assert result.stderr == (
        "exactnorm: error: standard input: cannot be kept in small (No space left on device); "
        "expected room for it there, or in a directory that TMPDIR names\n"
    )
    assert result.stdout == "1\n"


@pytest.mark.parametrize(
    "line",
    [
        "--version",
        "normalize --help",
        "info",
        "demo",
        "demo --json",
        "statistics x.npy --channel-axes 1",
        "statistics x.npy --channel-axes 0,1,2 --json",
    ],
)
@pytest.mark.parametrize("stream", ["/dev/full", None])
def test_text_that_cannot_be_printed_is_an_error(line: str, stream: str | None) -> None:
    np.save("x.npy", sample())
    redirection = f">{stream}" if stream else ">&-"
    result = subprocess.run(
        ["sh", "-c", f"{COMMAND} {line} {redirection}"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (1, "exactnorm: error: standard output: cannot be written\n")


def test_an_array_that_cannot_be_printed_is_an_error() -> None:
    np.save("x.npy", sample())
    for redirection, reason in [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]:
        line = f"{COMMAND} normalize x.npy -o - --channel-axes 1 {redirection}"
        result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (
            1,
            f"exactnorm: error: standard output: cannot be written ({reason}); expected room for 3360 bytes of data\n",
        )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_end_up_in_files(closed: str) -> None:
    x = sample()
    np.save("x.npy", x)
    succeed(*NORMALIZE)
    expected = digest("y.npy")
    x[0, 0, 0, 0] = np.nan
    np.save("nan.npy", x)
    subprocess.run(["sh", "-c", f"{COMMAND} {' '.join(NORMALIZE)} {closed}"], check=False)
    assert digest("y.npy") == expected
    # The warning of NaN has nowhere to go.
    line = f"{COMMAND} normalize nan.npy -o nan_y.npy --channel-axes 1 {closed}"
    subprocess.run(["sh", "-c", line], capture_output=True, check=False)
    y = np.load("nan_y.npy")
    assert os.stat("nan_y.npy").st_size == 128 + y.nbytes
    assert np.isnan(y[:, 0]).all()
    np.testing.assert_array_equal(y[:, 1:], np.load("y.npy")[:, 1:])


# --- permissions ---


def mode_of(name: str) -> str:
    return oct(os.stat(name).st_mode & 0o7777)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o664, 0o755, 0o200])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_replaced_file_keeps_its_mode(mode: int, umask: int) -> None:
    np.save("x.npy", sample())
    for name in ["y.npy", "s.json"]:
        Path(name).write_bytes(b"old")
        os.chmod(name, mode)
    old_umask = os.umask(umask)
    try:
        succeed(*NORMALIZE, "--statistics", "s.json")
        assert (mode_of("y.npy"), mode_of("s.json")) == (oct(mode), oct(mode))
        succeed("normalize", "x.npy", "-o", "new.npy", "--channel-axes", 1, "--statistics", "new.json")
        assert (mode_of("new.npy"), mode_of("new.json")) == (oct(0o666 & ~umask),) * 2
        os.chmod("x.npy", mode | 0o400)
        succeed("normalize", "x.npy", "-o", "x.npy", "--channel-axes", 1)
        assert mode_of("x.npy") == oct(mode | 0o400)
    finally:
        os.umask(old_umask)
    assert Path("y.npy").read_bytes() == Path("new.npy").read_bytes() == Path("x.npy").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_replaced_file_keeps_owner_and_group() -> None:
    np.save("x.npy", sample())
    Path("y.npy").write_bytes(b"old")
    os.chmod("y.npy", 0o640)
    os.chown("y.npy", 12345, 23456)
    succeed(*NORMALIZE)
    status = os.stat("y.npy")
    assert (status.st_uid, status.st_gid, mode_of("y.npy")) == (12345, 23456, "0o640")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_group_that_cannot_be_kept_gives_no_rights_to_another() -> None:
    np.save("x.npy", sample())
    os.chmod("x.npy", 0o644)
    Path("y.npy").write_bytes(b"old")
    os.chmod("y.npy", 0o660)
    os.chown("y.npy", 12345, 23456)
    os.chown(".", 12345, 34567)
    if subprocess.run([COMMAND, "--version"], user=12345, group=34567, capture_output=True, check=False).returncode:
        pytest.skip("another user may not run the command")
    subprocess.run([COMMAND, *NORMALIZE], user=12345, group=34567, extra_groups=[], check=True)
    status = os.stat("y.npy")
    assert (status.st_uid, status.st_gid, mode_of("y.npy")) == (12345, 34567, "0o600")


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX access control list as Linux keeps it: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_a_replaced_file_keeps_its_access_control_list() -> None:
    nobody = 0xFFFFFFFF
    wanted = access_list((1, 6, nobody), (2, 4, 12345), (4, 0, nobody), (16, 4, nobody), (32, 0, nobody))
    np.save("x.npy", sample())
    Path("y.npy").write_bytes(b"old")
    try:
        os.setxattr("y.npy", "system.posix_acl_access", wanted)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    assert mode_of("y.npy") == "0o640"
    succeed(*NORMALIZE)
    assert os.getxattr("y.npy", "system.posix_acl_access") == wanted
    # A list that new files of the directory get is not for a file that had none.
    Path("z.npy").write_bytes(b"old")
    os.chmod("z.npy", 0o640)
    default = access_list((1, 7, nobody), (2, 7, 12345), (4, 7, nobody), (16, 7, nobody), (32, 0, nobody))
    os.setxattr(".", "system.posix_acl_default", default)
    succeed("normalize", "x.npy", "-o", "z.npy", "--channel-axes", 1)
    assert "system.posix_acl_access" not in os.listxattr("z.npy")
    assert mode_of("z.npy") == "0o640"


@pytest.mark.parametrize("mode", [0o444, 0o400, 0o555, 0o000])
@pytest.mark.parametrize("name", ["y.npy", "s.json"])
def test_a_write_protected_file_is_not_replaced(mode: int, name: str) -> None:
    np.save("x.npy", sample())
    Path(name).write_bytes(b"old")
    os.chmod(name, mode)
    result = run(*NORMALIZE, "--statistics", "s.json")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"exactnorm: error: {name}: is write-protected (mode 0{mode:03o}); "
        "expected a file that may be written, or a new name\n"
    )
    assert files() == {"x.npy", name}
    os.chmod(name, 0o600)
    assert Path(name).read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_another_users_file_and_directory() -> None:
    np.save("x.npy", sample())
    Path("y.npy").write_bytes(b"old")
    os.chmod("y.npy", 0o644)
    os.chmod(".", 0o755)
    options = {"user": 12345, "group": 34567, "extra_groups": [], "capture_output": True, "text": True, "check": False}
    if subprocess.run([COMMAND, "--version"], **options).returncode:
        pytest.skip("another user may not run the command")
    result = subprocess.run([COMMAND, *NORMALIZE], **options)
    assert result.stderr.startswith("exactnorm: error: y.npy: is write-protected (mode 0644);")
    line = [COMMAND, "normalize", "x.npy", "-o", "z.npy", "--channel-axes", "1"]
    result = subprocess.run(line, **options)
    assert (result.returncode, result.stderr) == (
        1,
        "exactnorm: error: z.npy: cannot be created (Permission denied); expected a writable directory\n",
    )
    assert files() == {"x.npy", "y.npy"}


def test_a_symbolic_link_is_not_replaced() -> None:
    np.save("x.npy", sample())
    Path("y.npy").symlink_to("target")
    for name in ["y.npy", "/dev/stdout"]:
        result = run("normalize", "x.npy", "-o", name, "--channel-axes", 1)
        assert (result.returncode, result.stdout, result.stderr) == (
            1,
            "",
            f"exactnorm: error: {name}: is a symbolic link; expected a regular file or a new name\n",
        )
    assert files() == {"x.npy", "y.npy"}
