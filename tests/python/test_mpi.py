"""The command exactnorm under mpirun: the files and the text of one process, from any number of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from test_command import COMMAND, digest, directory, run, sample, succeed  # noqa: F401
from test_command_files import on_a_small_disk, outputs_of
from test_command_signals import no_unnamed_files  # noqa: F401

# More ranks than processors, and as root where the tests run as root: what Open MPI wants to be told.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMP_NUM_THREADS": "1",
}


def version_of_mpi() -> str:
    return str(json.loads(succeed("info", "--json"))["mpi"])


pytestmark = pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")


def mpirun_command(ranks: int, *arguments: object) -> list[str]:
    return ["mpirun", "-n", str(ranks), str(COMMAND), *map(str, arguments)]


def mpirun(ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        mpirun_command(ranks, *arguments),
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_is_built_with_mpi_where_mpirun_is() -> None:
    assert version_of_mpi() != "none"


INPUTS = {
    "even nchw": (sample(shape=(40, 5, 4, 7)), 1),
    "uneven nchw": (sample(shape=(7, 5, 4, 7)), 1),
    "nhwc": (sample("float64", shape=(13, 9, 8, 5)), -1),
    "(h, w, c, m)": (np.asfortranarray(sample(shape=(4, 7, 5, 11)).transpose(1, 0, 2, 3)), 2),
    "fewer samples than ranks": (sample(shape=(1, 3)), 1),
    "features first": (sample("int32", shape=(6, 50)), 0),
    "no sample": (sample(shape=(0, 3)), 1),
}


@pytest.mark.parametrize("name", INPUTS)
def test_files_are_those_of_one_process(name: str) -> None:
    x, axis = INPUTS[name]
    np.save("x.npy", x)
    options = ["--channel-axes", axis, "--block-bytes", 500]
    succeed("normalize", "x.npy", "-o", "y0.npy", "--statistics", "s0.json", *options)
    table = succeed("statistics", "x.npy", "x.npy", *options)
    for ranks in range(1, 6):
        result = mpirun(ranks, "normalize", "x.npy", "-o", "y.npy", "--statistics", "s.json", *options)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert digest("y.npy") == digest("y0.npy")
        assert digest("s.json") == digest("s0.json")
        assert mpirun(ranks, "statistics", "x.npy", "x.npy", *options).stdout == table
    assert {path.name for path in Path().iterdir()} == {"x.npy", "y.npy", "y0.npy", "s.json", "s0.json"}


def test_inference_and_a_larger_dtype() -> None:
    np.save("x.npy", sample(shape=(9, 3, 4)))
    np.save("mean.npy", np.arange(3.0))
    np.save("variance.npy", np.arange(1.0, 4.0))
    arguments = ["normalize", "x.npy", "--channel-axes", 1, "--dtype", "float64"]
    arguments += ["--running-mean", "mean.npy", "--running-variance", "variance.npy"]
    succeed(*arguments, "-o", "y0.npy")
    assert mpirun(3, *arguments, "-o", "y.npy").returncode == 0
    assert digest("y.npy") == digest("y0.npy")


def test_the_input_may_be_the_output() -> None:
    np.save("x.npy", sample())
    succeed("normalize", "x.npy", "-o", "y.npy", "--channel-axes", 1)
    assert mpirun(3, "normalize", "x.npy", "-o", "x.npy", "--channel-axes", 1).returncode == 0
    assert digest("x.npy") == digest("y.npy")


def test_errors_and_warnings_are_said_once() -> None:
    result = mpirun(3, "normalize", "missing.npy", "-o", "y.npy", "--channel-axes", 1)
    assert result.returncode == 1
    assert result.stderr.count("exactnorm: error: missing.npy: cannot be opened") == 1
    result = mpirun(3, "normalize", "missing.npy", "-o", "y.npy")
    assert result.returncode == 2
    assert result.stderr.count("exactnorm: error:") == 1
    assert mpirun(3, "--version").stdout == run("--version").stdout
    assert mpirun(2, "info", "--json").stdout.count("version") == 1
    x = sample()
    x[5, 2, 1, 1] = np.nan
    np.save("x.npy", x)
    result = mpirun(3, "normalize", "x.npy", "-o", "y.npy", "--channel-axes", 1)
    assert (result.returncode, result.stderr.count("exactnorm: warning:")) == (0, 1)


def test_an_error_on_one_rank_is_named_and_nothing_is_left() -> None:
    np.save("x.npy", sample())
    wrapper = Path("one_is_wrong.sh")
    wrapper.write_text(
        f'[ "$OMPI_COMM_WORLD_RANK" = 2 ] && exec {COMMAND} normalize missing.npy -o y.npy --channel-axes 1\n'
        f"exec {COMMAND} normalize x.npy -o y.npy --channel-axes 1\n"
    )
    result = subprocess.run(
        ["mpirun", "-n", "4", "sh", str(wrapper)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1
    assert "exactnorm: error: missing.npy on rank 2: cannot be opened" in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["one_is_wrong.sh", "x.npy"]


def children_of(process: subprocess.Popen[str]) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(number) for number in listed.split()]


# One element a block: work of minutes.
WORK = ["normalize", "x.npy", "-o", "y.npy", "--statistics", "s.json", "--channel-axes", 1, "--block-bytes", 4]


def start_work(ranks: int) -> subprocess.Popen[str]:
    """Start mpirun, and return when all ranks have opened the output."""
    np.save("x.npy", np.zeros((4_000_000, 1), np.float32))
    Path("y.npy").write_bytes(b"old")
    process = subprocess.Popen(
        mpirun_command(ranks, *WORK),
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while sum(bool(outputs_of(child)) for child in children_of(process)) < ranks:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    return process


def expect_nothing_left() -> None:
    # A moment, for ranks that outlive mpirun.
    deadline = time.monotonic() + 10
    while len(list(Path().iterdir())) > 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(path.name for path in Path().iterdir()) == ["x.npy", "y.npy"]
    assert Path("y.npy").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("receiver", "sent"),
    [("mpirun", f"SIG{name}") for name in ["TERM", "INT", "HUP", "USR1", "USR2", "XCPU"]]
    + [("first", f"SIG{name}") for name in ["TERM", "USR1", "XCPU", "KILL"]]
    + [("last", f"SIG{name}") for name in ["TERM", "USR2", "KILL"]],
)
def test_a_signal_ends_all_ranks_and_leaves_nothing(receiver: str, sent: str) -> None:
    with start_work(3) as process:
        to = {"mpirun": process.pid, "first": children_of(process)[0], "last": children_of(process)[-1]}
        os.kill(to[receiver], signal.Signals[sent])
        begin = time.monotonic()
        process.communicate(timeout=30)
        assert process.returncode != 0
        assert time.monotonic() - begin < 20
    expect_nothing_left()


@pytest.mark.usefixtures("no_unnamed_files")
def test_ranks_share_a_file_with_a_name() -> None:
    np.save("x.npy", sample())
    succeed("normalize", "x.npy", "-o", "y0.npy", "--channel-axes", 1)
    assert mpirun(3, "normalize", "x.npy", "-o", "y.npy", "--channel-axes", 1).returncode == 0
    assert digest("y.npy") == digest("y0.npy")
    os.remove("y0.npy")
    with start_work(3) as process:
        os.kill(children_of(process)[0], signal.SIGKILL)
        process.communicate(timeout=30)
    expect_nothing_left()


def test_a_file_that_is_cut_short_ends_all_ranks() -> None:
    with start_work(3) as process:
        os.truncate("x.npy", 1000)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "")
    assert errors.count("exactnorm: error: ") == 1
    assert "exactnorm: error: x.npy: was cut short from 16000128 to 1000 bytes while it was read;" in errors
    expect_nothing_left()


def test_a_limit_on_file_sizes() -> None:
    # More than MPI needs for its own files.
    np.save("x.npy", np.zeros((16_000_000, 1), np.float32))
    Path("y.npy").write_bytes(b"old")
    line = f"ulimit -f 80000; exec {COMMAND} normalize x.npy -o y.npy --channel-axes 1"
    result = subprocess.run(
        ["mpirun", "-n", "3", "bash", "-c", line],
        env=os.environ | ENVIRONMENT | {"POSIXLY_CORRECT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1
    assert "exactnorm: error: y.npy on rank 1: cannot be written (File too large); expected room for" in result.stderr
    expect_nothing_left()


def test_a_full_disk() -> None:
    np.save("x.npy", np.ones((30_000, 1), np.float32))
    os.environ.update(ENVIRONMENT)
    command = " ".join(mpirun_command(3, "normalize", "x.npy", "-o", "small/y.npy", "--channel-axes", 1))
    result = on_a_small_disk(f"echo old > small/y.npy; {command}; echo $?; cat small/y.npy; ls -A small")
    # How many of the ranks meet the full disk is a matter of time. What all say has no rank.
    message = r"cannot be written \(No space left on device\); expected room for 120000 bytes of data"
    said = rf"exactnorm: error: small/y\.npy(?: on rank [012]: {message}(?:; 1 other rank failed, too)?|: {message})\n"
    assert len(re.findall(said, result.stderr)) == result.stderr.count("exactnorm: error: ") == 1
    assert result.stdout == "1\nold\ny.npy\n"


def test_statistics_of_another_call_are_applied() -> None:
    np.save("x.npy", sample())
    fit = ["normalize", "x.npy", "-o", "y.npy", "--channel-axes", 1, "--statistics", "fit.json"]
    assert mpirun(3, *fit).returncode == 0
    result = mpirun(2, "normalize", "x.npy", "-o", "z.npy", "--channel-axes", 1, "--statistics-from", "fit.json")
    assert (result.returncode, result.stderr) == (0, "")
    assert digest("z.npy") == digest("y.npy")


def test_standard_input_and_output_are_for_one_process() -> None:
    np.save("x.npy", sample())
    succeed("normalize", "x.npy", "-o", "y.npy", "--channel-axes", 1)
    expected = "cannot be shared by 2 processes; expected the name of a file that each of them can open"
    for stream, arguments in [
        ("input", ["statistics", "-"]),
        ("input", ["normalize", "-", "-o", "z.npy"]),
        ("input", ["normalize", "x.npy", "-o", "z.npy", "--statistics-from", "-"]),
        ("output", ["normalize", "x.npy", "-o", "-"]),
    ]:
        result = mpirun(2, *arguments, "--channel-axes", 1)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.count(f"exactnorm: error: standard {stream}: {expected}") == 1
    # mpirun hands on its input to the first process, but makes the output a terminal.
    command = mpirun_command(1, "normalize", "-", "-o", "z.npy", "--channel-axes", 1)
    with open("x.npy", "rb") as x:
        subprocess.run(command, env=os.environ | ENVIRONMENT, stdin=x, capture_output=True, check=True, timeout=60)
    assert digest("z.npy") == digest("y.npy")


def test_a_launcher_of_another_mpi_is_refused() -> None:
    # What MPICH's launcher says, to a process that Open MPI takes for one by itself.
    result = run("info", PMI_SIZE="3")
    assert result.returncode == 1
    assert result.stderr.startswith("exactnorm: error: mpirun: started 3 processes that do not find each other")
