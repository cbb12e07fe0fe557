"""The command's fold and inspect: what is typed reaches the Python package's program as it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from test_command import run, succeed

pytestmark = pytest.mark.usefixtures("directory")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_help_names_them() -> None:
    text = succeed("--help")
    for command in ("fold", "inspect"):
        assert re.search(rf"^  {command} ", text, re.MULTILINE)


@pytest.mark.parametrize("command", ["fold", "inspect"])
@pytest.mark.parametrize("words", [[], ["--help"], ["a b.onnx", "--output", "y.onnx", "-x"], ["--", "-z", ""], ["info"]])
def test_everything_is_handed_over(directory: Path, command: str, words: list[str]) -> None:
    path = f"{directory}:{os.environ['PATH']}"
    program = directory / "exactnorm-onnx"
    program.write_text('#!/bin/sh\nfor word; do printf "[%s]" "$word"; done\nexit 7\n')
    program.chmod(0o755)
    result = run(command, *words, PATH=path)
    assert result.stdout == "".join(f"[{word}]" for word in [command, *words])
    assert (result.returncode, result.stderr) == (7, "")


@pytest.mark.parametrize("command", ["fold", "inspect"])
def test_without_the_program(directory: Path, command: str) -> None:
    result = run(command, "model.onnx", PATH=str(directory))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"exactnorm: error: {command}: needs the program exactnorm-onnx, which is not in PATH")
    (directory / "exactnorm-onnx").write_text("no program")
    result = run(command, "model.onnx", PATH=str(directory))
    assert result.returncode == 1 and "exactnorm-onnx cannot be started: Permission denied" in result.stderr
