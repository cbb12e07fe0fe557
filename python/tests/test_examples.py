"""The examples run, and say what they claim."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def printed(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.text for output in outputs if output.output_type == "stream")


def test_notebook():
    notebook = nbformat.read(EXAMPLES / "batch_norm.ipynb", 4)
    committed = printed(notebook)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": EXAMPLES}})
    client.execute()
    for text in (committed, printed(notebook)):
        assert "by hand: True  PyTorch: True" in text
        assert "by hand: True\nPyTorch: True" in text
        assert text.count("same bits") == 2
        assert "same outputs: True" in text
    images = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(images) == 2


def test_training_on_digits(tmp_path):
    figure = tmp_path / "figure.png"
    command = [sys.executable, EXAMPLES / "train_digits.py", "--steps", "60", "--output", figure]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert figure.stat().st_size > 10_000
    ends = dict(line.split(": test accuracy ") for line in text.splitlines() if "accuracy" in line)
    accuracy = {name.strip(): float(end.split()[0]) for name, end in ends.items()}
    assert accuracy["exactnorm"] > 0.9
    assert abs(accuracy["exactnorm"] - accuracy["torch.nn"]) < 0.05
