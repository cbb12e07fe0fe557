"""The examples run, and say what they claim."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def printed(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.text for output in outputs if output.output_type == "stream")


def as_committed_and_again(name):
    """A notebook, what it printed when it was committed, and what it prints now."""
    notebook = nbformat.read(EXAMPLES / name, 4)
    committed = printed(notebook)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": EXAMPLES}}).execute()
    return notebook, (committed, printed(notebook))


def test_notebook():
    notebook, texts = as_committed_and_again("batch_norm.ipynb")
    for text in texts:
        assert "by hand: True  PyTorch: True" in text
        assert "by hand: True\nPyTorch: True" in text
        assert text.count("same bits") == 2
        assert "same outputs: True" in text
    images = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(images) == 2


def test_notebook_of_a_trained_network():
    _, texts = as_committed_and_again("models.ipynb")
    for text in texts:
        trained, elsewhere, recalibrated, folded = map(float, re.findall(r"accuracy: ([\d.]+)", text))
        assert trained > 0.95 and elsewhere < 0.6 and recalibrated > 0.93 and folded == recalibrated
        assert text.count("3 of 3 batch normalizations folded") == 2
        assert "channels, drift: the mean is more than 0.5 deviations from the running one" in text
        assert "steps: Conv Relu Conv Relu Flatten Gemm Relu Gemm" in text


def test_training_on_digits(tmp_path):
    figure = tmp_path / "figure.png"
    command = [sys.executable, EXAMPLES / "train_digits.py", "--steps", "60", "--output", figure]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert figure.stat().st_size > 10_000
    ends = dict(line.split(": test accuracy ") for line in text.splitlines() if "accuracy" in line)
    accuracy = {name.strip(): float(end.split()[0]) for name, end in ends.items()}
    assert accuracy["exactnorm"] > 0.9
    assert abs(accuracy["exactnorm"] - accuracy["torch.nn"]) < 0.05
