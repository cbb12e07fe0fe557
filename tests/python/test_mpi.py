"""The command exactnorm under mpirun: the files and the text of one process, from any number of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from test_command import COMMAND, digest, directory, run, sample, succeed  # noqa: F401

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


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_dies_takes_the_others_along(sent: signal.Signals) -> None:
    # One element a block: work of minutes.
    np.save("x.npy", np.zeros((4_000_000, 1), np.float32))
    arguments = ["normalize", "x.npy", "-o", "y.npy", "--channel-axes", 1, "--block-bytes", 4]
    with subprocess.Popen(
        mpirun_command(3, *arguments), env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 30
        while not any(path.name.startswith(".y.npy") for path in Path().iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(children_of(process)[-1], sent)
        start = time.monotonic()
        process.communicate(timeout=30)
        assert process.returncode != 0
        assert time.monotonic() - start < 20
    assert [path.name for path in Path().iterdir()] == ["x.npy"]


def test_a_launcher_of_another_mpi_is_refused() -> None:
    # What MPICH's launcher says, to a process that Open MPI takes for one by itself.
    result = run("info", PMI_SIZE="3")
    assert result.returncode == 1
    assert result.stderr.startswith("exactnorm: error: mpirun: started 3 processes that do not find each other")
