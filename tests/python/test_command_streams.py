"""Standard input and output of the command exactnorm, as "-", and headers that others write."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_command import COMMAND, digest, directory, sample, succeed  # noqa: F401
from test_command_files import files


def pipe(line: str, standard_input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", line.replace("exactnorm", str(COMMAND))], input=standard_input, capture_output=True, check=False
    )


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("block", [7, 1000, 1 << 25])
def test_standard_input_and_output(order: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("x.npy", np.asarray(sample(), order=order))
    options = f"--channel-axes 1 --block-bytes {block}"
    succeed("normalize", "x.npy", "-o", "y.npy", "--statistics", "s.json", *options.split())
    table = succeed("statistics", "x.npy", *options.split())
    os.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(Path("temporary").resolve()))
    y, statistics = Path("y.npy").read_bytes(), Path("s.json").read_bytes()
    normalize = f"exactnorm normalize - -o - {options}"
    for line, expected in [
        (f"exactnorm normalize x.npy -o - {options}", y),
        (f"cat x.npy | {normalize}", y),
        (f"{normalize} < x.npy", y),
        (f"{normalize} < x.npy > out.npy; cat out.npy", y),
        (f"(head -c 1000; sleep 0.05; cat) < x.npy | {normalize}", y),
        (f"(printf 0123456789; cat x.npy) > both; (read -N 10; {normalize}) < both", y),
        (f"cat x.npy | exactnorm normalize - -o x2.npy --statistics - {options}", statistics),
        (f"cat s.json | exactnorm normalize x.npy -o - --statistics-from - {options}", y),
        (f"cat x.npy | exactnorm statistics - {options}", table.encode()),
        (f"exactnorm statistics - {options} < x.npy", table.encode()),
    ]:
        result = pipe(line)
        assert (result.stdout, result.stderr, result.returncode) == (expected, b"", 0), line
    assert os.listdir("temporary") == []
    assert "-" not in files()
    assert Path("x2.npy").read_bytes() == y


def test_a_file_called_minus_has_another_name() -> None:
    np.save("x.npy", sample())
    os.rename("x.npy", "-")
    succeed("normalize", "./-", "-o", "y.npy", "--channel-axes", 1)
    succeed("normalize", "./-", "-o", "./-", "--channel-axes", 1)
    assert Path("-").read_bytes() == Path("y.npy").read_bytes()


STREAM_ERRORS = [
    ("printf '' | exactnorm statistics - --channel-axes 1", "standard input: is empty; expected a .npy file"),
    ("head -c 1000 x.npy | exactnorm statistics - --channel-axes 1",
     "standard input: holds 872 bytes of data; expected 3360 for shape (6, 5, 4, 7) float32"),
    ("exactnorm statistics - --channel-axes 1 < .",
     "standard input: cannot be read (Is a directory); expected a .npy file"),
    ("exactnorm statistics - --channel-axes 1 <&-",
     "standard input: cannot be read (Bad file descriptor); expected a .npy file"),
    ("cat x.npy | exactnorm statistics - - --channel-axes 1",
     "standard input: is given 2 times, as -; expected it once"),
    ("cat x.npy | exactnorm normalize - -o y.npy --gamma - --channel-axes 1",
     "standard input: is given 2 times, as -; expected it once"),
    ("exactnorm normalize x.npy -o - --statistics - --channel-axes 1",
     "standard output: is given 2 times, as -; expected it once"),
    ("exactnorm normalize x.npy -o - --channel-axes 1 >> x.npy",
     "--output: is the same file as the input; expected a file of its own"),
    ("exactnorm normalize - -o - --channel-axes 1 < x.npy 1<> x.npy",
     "--output: is the same file as the input; expected a file of its own"),
    ("exactnorm normalize x.npy -o - --statistics s.json --channel-axes 1 > s.json",
     "--statistics: is the same file as --output; expected a file of its own"),
    ("cat x.npy | TMPDIR=/nowhere exactnorm statistics - --channel-axes 9",
     "--channel-axes for standard input: has 9; expected axes of a tensor of shape (6, 5, 4, 7)"),
    ("mkfifo fifo; exactnorm statistics fifo --channel-axes 1; rm fifo; false",
     "fifo: is a pipe; expected a regular file, or - for standard input"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), STREAM_ERRORS, ids=[line for line, _ in STREAM_ERRORS])
def test_errors_with_streams(line: str, message: str) -> None:
    np.save("x.npy", sample())
    before = digest("x.npy")
    result = pipe(line)
    assert (result.stderr.decode(), result.stdout, result.returncode) == (f"exactnorm: error: {message}\n", b"", 1)
    assert files() <= {"x.npy", "s.json"}
    assert digest("x.npy") == before


@pytest.mark.parametrize("line", ["normalize x.npy -o - --channel-axes 1", "statistics - --channel-axes 1"])
def test_terminals_are_no_place_for_arrays(line: str) -> None:
    np.save("x.npy", sample())
    controller, terminal = os.openpty()
    result = subprocess.run(
        [COMMAND, *line.split()], stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(controller)
    os.close(terminal)
    stream = "output" if "normalize" in line else "input"
    assert result.returncode == 1
    assert result.stderr == f"exactnorm: error: standard {stream}: is a terminal; expected a pipe or a file\n"


# --- headers ---


@pytest.mark.parametrize(
    "header",
    [
        "{u'descr': u'<f4', u'fortran_order': False, u'shape': (3L, 2L), }",
        "{'descr': u'<f4', 'fortran_order': False, 'shape': (3, 2), }",
        "{'descr': U\"<f4\", 'fortran_order': False, 'shape': (3, 2), }",
        "{r'descr': R'<f4', 'fortran_order': False, 'shape': (3, 2), }",
    ],
)
@pytest.mark.filterwarnings("ignore:Reading")
def test_headers_that_numpy_reads(header: str) -> None:
    values = np.arange(6, dtype="<f4").reshape(3, 2)
    text = header.encode().ljust(117) + b"\n"
    Path("x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + values.tobytes())
    np.testing.assert_array_equal(np.load("x.npy"), values)
    np.save("plain.npy", values)
    expected = succeed("statistics", "plain.npy", "--channel-axes", 1)
    assert succeed("statistics", "x.npy", "--channel-axes", 1) == expected


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_messages_that_nobody_can_read(closed: str) -> None:
    x = sample()
    np.save("x.npy", x)
    x[0, 1, 0, 0] = np.nan
    np.save("nan.npy", x)
    assert pipe(f"exactnorm normalize missing.npy -o y.npy --channel-axes 1 {closed}").returncode == 1
    assert pipe(f"exactnorm normalize {closed}").returncode == 2
    assert files() == {"x.npy", "nan.npy"}
    assert pipe(f"exactnorm normalize nan.npy -o y.npy --channel-axes 1 {closed}").returncode == 0
    assert np.isnan(np.load("y.npy")[:, 1]).all()
