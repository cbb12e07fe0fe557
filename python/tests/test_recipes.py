"""The Python of docs/recipes.md runs."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import exactnorm

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"


def blocks():
    """Those that are Python, one after the other, of each section that has any, with its heading."""
    for section in RECIPES.read_text().split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        sources = []
        for block in re.findall(r"(?m)(?:^    .*\n)+", text):
            source = re.sub(r"(?m)^    ", "", block)
            try:
                ast.parse(source)
            except SyntaxError:
                continue  # C++, or a command
            sources.append(source)
        if sources:
            yield pytest.param("".join(sources), id=heading)


@pytest.mark.parametrize("source", blocks())
def test_a_recipe_runs(source):
    generator = np.random.default_rng(1)
    shape = (6, 4, 30, 6) if "latitude" in source else (300, 4, 6)
    x, dy, shortcut = generator.normal(2, 1, (3, *shape)).astype(np.float32)
    gamma, beta, running_mean = generator.normal(size=(3, 4))
    names = {
        "np": np,
        "exactnorm": exactnorm,
        "x": x,
        "dy": dy,
        "shortcut": shortcut,
        "gamma": gamma,
        "beta": beta,
        "channels": 4,
        "parts": [x[:2], x[2:]],
        "lengths": generator.integers(1, 7, 300),
        "latitude": np.linspace(-89, 89, 30),
        "running_mean": running_mean,
        "running_var": np.array([1, 2, -1e-6, 4]),
        "running": exactnorm.RunningStatistics(4),
        "batches": [(x, dy), (dy, x)],
    }
    exec(source, names)
    assert np.isfinite(names["y"]).all()


def test_all_recipes_of_python_are_found():
    assert len(list(blocks())) >= 6
