"""exactnorm.torch.inspect: what it finds of values and parameters; its JSON and its page, which Chromium opens."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import exactnorm.torch
import numpy as np
import pytest
import torch
from exactnorm._fold_report import FoldedNorm
from exactnorm.torch import inspect
from torch import nn

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.BatchNorm2d(5),
    )  # fmt: skip
    with torch.no_grad():
        for norm in (model[1], model[6]):
            norm.weight.uniform_(-1, 2)
            norm.bias.normal_()
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.1, 0.3)
    return model


def samples(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 9, 9, generator=generator) + size for size in (4, 1, 7)]


def values_at(model, index, batches):
    """All values before and after a layer, channels first, by PyTorch in evaluation."""
    with torch.no_grad():
        before = torch.cat([model.eval()[:index](batch) for batch in batches])
        return before, model[index](before)


def test_statistics_are_those_of_all_samples():
    model, batches = network(), samples()
    found = inspect(model, batches)
    assert list(found.norms) == ["1", "6"] and found.batches == 3 and not found.untouched
    for index in (1, 6):
        norm = found.norms[str(index)]
        before, after = values_at(copy.deepcopy(model), index, batches)
        x = before.double().transpose(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(norm.pooled_mean, x.mean(1), rtol=1e-12)
        np.testing.assert_allclose(norm.pooled_variance, x.var(1, ddof=1), rtol=1e-12)
        running_deviation = np.sqrt(model[index].running_var.double().numpy() + 1e-5)
        np.testing.assert_allclose(norm.drift, (x.mean(1) - model[index].running_mean.double().numpy()) / running_deviation, rtol=1e-12)
        np.testing.assert_allclose(norm.deviation_ratio, np.sqrt(x.var(1, ddof=1) + 1e-5) / running_deviation, rtol=1e-12)
        np.testing.assert_allclose(norm.scale, model[index].weight.detach().double().numpy() / running_deviation, rtol=1e-12)
        assert norm.count == x.shape[1]
        assert norm.inputs.counts.sum() == x.size == norm.outputs.counts.sum()
        y = after.double().transpose(0, 1).flatten(1).numpy()
        assert norm.least.tolist() == y.min(1).tolist() and norm.largest.tolist() == y.max(1).tolist()
        assert (norm.inputs.low, norm.inputs.high, norm.outputs.high) == (x.min(), x.max(), y.max())


def test_the_model_is_not_changed():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inspect(model, samples())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())

    def failing():
        yield samples()[0]
        raise OSError("the loader")

    with pytest.raises(OSError, match="the loader"):
        inspect(model, failing())
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_the_result_does_not_depend_on_the_split():
    batches = samples()
    whole = torch.cat(batches)
    model = nn.Sequential(nn.BatchNorm2d(3))
    found = [inspect(model, split, folds=False).norms["0"] for split in (batches, batches[::-1], [whole], whole.split(1))]
    for other in found[1:]:
        assert other.pooled_mean.tolist() == found[0].pooled_mean.tolist()
        assert other.inputs.counts.tolist() == found[0].inputs.counts.tolist()


def kinds(norm):
    return {finding.kind: finding.channels for finding in norm.findings}


def normalization(channels=4, x=None):
    """One whose running statistics are those of x."""
    norm = nn.BatchNorm1d(channels)
    norm.running_mean.copy_(x.mean(0))
    norm.running_var.copy_(x.var(0))
    return norm


def test_nothing_is_found_where_nothing_is_wrong():
    x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(1))
    assert kinds(inspect(nn.Sequential(normalization(x=x)), [x]).norms["0"]) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda norm, x: norm.weight.data.__setitem__(2, 0.0), {"dead": [2]}),
        (lambda norm, x: x.__setitem__((slice(None), 1), float(norm.running_mean[1])), {"dead": [1], "deviation": [1]}),
        (lambda norm, x: norm.bias.data.__setitem__(3, -20.0), {"never positive": [3]}),
        (lambda norm, x: norm.running_mean.__setitem__(0, -2.0), {"drift": [0]}),
        (lambda norm, x: norm.running_var.__setitem__(1, 9.0), {"deviation": [1]}),
        (lambda norm, x: norm.running_var.__setitem__(1, 0.1), {"deviation": [1]}),
        (lambda norm, x: norm.weight.data.__setitem__(2, 30.0), {"exploding": [2], "scale": [2]}),
        (lambda norm, x: x.__setitem__((5, 3), float("nan")), {"not finite": [3]}),
        (lambda norm, x: (x.add_(torch.tensor([0.0, 0, 1000, 0])), norm.running_mean.add_(torch.tensor([0.0, 0, 1000, 0]))), {"offset": [2]}),
    ],
)  # fmt: skip
def test_findings(change, expected):
    x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(1))
    norm = normalization(x=x)
    with torch.no_grad():
        change(norm, x)
    assert kinds(inspect(nn.Sequential(norm), [x]).norms["0"]) == expected


def test_a_variance_below_epsilon_and_what_it_costs():
    x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(1))
    norm = normalization(x=x)
    norm.running_var[1] = 1e-9
    found = inspect(nn.Sequential(norm), [x]).norms["0"]
    assert {"variance", "scale", "exploding", "deviation"} <= set(kinds(found))
    (text,) = [finding.text for finding in found.findings if finding.kind == "scale"]
    assert f"lose up to {np.log2(1 / np.sqrt(1e-9 + 1e-5) / np.median(np.abs(found.scale))):.1f} bits (channel 1)" in text


def test_without_data_parameters_alone():
    found = inspect(network())
    norm = found.norms["1"]
    assert norm.pooled_mean is None and norm.drift is None and norm.count == 0 and found.batches == 0
    assert isinstance(norm.fold, FoldedNorm) and norm.fold.layer == "0"
    assert "does not fold" in found.to_html() and "no data" in found.to_html()


def test_what_is_never_called_and_has_no_running_statistics():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.BatchNorm1d(3)
            self.second = nn.BatchNorm1d(3, track_running_stats=False)
            self.first = nn.BatchNorm1d(3, affine=False)

        def forward(self, x):
            return self.second(self.first(input=x))

    found = inspect(Branches(), [torch.randn(8, 3)])
    assert list(found.norms) == ["first", "second", "unused"] and found.untouched == {"unused": "no batch calls it"}
    assert found.norms["second"].mean is None and found.norms["second"].drift is None
    np.testing.assert_allclose(found.norms["second"].scale, 1 / np.sqrt(found.norms["second"].pooled_variance + 1e-5))
    assert "unused: no batch calls it" in str(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    model = nn.Sequential(nn.BatchNorm1d(3)).to(dtype)
    x = torch.randn(50, 3).to(dtype)
    norm = inspect(model, [x]).norms["0"]
    np.testing.assert_allclose(norm.pooled_mean, x.double().mean(0).numpy(), rtol=1e-12)


def test_batches_of_other_kinds():
    model = network()
    (x, *_) = samples()
    expected = inspect(model, [x], folds=False).to_json()
    assert inspect(model, [(x, "target")], folds=False).to_json() == expected
    assert inspect(model, [{"input": x}], folds=False).to_json() == expected
    assert inspect(model, [{"image": x}], folds=False, forward=lambda model, batch: model(batch["image"])).to_json() == expected
    assert inspect(model, [x, x + 1], folds=False, batches=1).to_json() == expected


def test_errors():
    with pytest.raises(ValueError, match="model: has no batch normalization"):
        inspect(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="loader: gives no batch"):
        inspect(network(), [])
    with pytest.raises(ValueError, match="batches: is 0"):
        inspect(network(), samples(), batches=0)


def test_json_has_all_of_it(tmp_path):
    found = inspect(network(), samples())
    found.write(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert [norm["name"] for norm in read["norms"]] == ["1", "6"] and read["batches"] == 3
    first = read["norms"][0]
    assert first["pooled_mean"] == found.norms["1"].pooled_mean.tolist()
    assert first["fold"]["layer"] == "0" and read["norms"][1]["fold"]["reason"]
    assert first["inputs"]["counts"] == found.norms["1"].inputs.counts.tolist()
    x = torch.randn(4, 2)
    x[0, 0] = float("inf")
    infinite = json.loads(inspect(nn.Sequential(nn.BatchNorm1d(2)), [x]).to_json())  # strict JSON
    assert infinite["norms"][0]["pooled_mean"][0] is None


def test_files_appear_whole_or_not_at_all(tmp_path):
    found = inspect(network(), samples())
    with pytest.raises(ValueError, match=r"path: is .*report.txt; expected a name that ends in .html or .json"):
        found.write(tmp_path / "report.txt")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        found.write(tmp_path / "none" / "report.html")
    assert list(tmp_path.iterdir()) == []
    found.write(str(tmp_path / "report.html"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


class Page(HTMLParser):
    """What a page consists of; its tags close as they should."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links, self.ids = set(), [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        given = dict(attributes)
        self.links += [given[name] for name in ("href", "src") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        assert not [name for name in given if name.startswith("on")]
        if tag not in ("meta", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag == "path" or self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)


def strange_model():
    model = network()
    model.add_module("<script>alert(1)</script>&\"'", nn.BatchNorm2d(5))
    return model


def test_the_page_needs_nothing_from_elsewhere():
    text = inspect(strange_model(), samples()).to_html()
    page = Page(text)
    assert "script" not in page.tags and "<script" not in text
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"https?://|url\(|@import", text)
    assert len([name for name in page.ids if name.startswith("layer")]) == 3


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


def screenshot(path, width, *options):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", *options, f"--window-size={width},900",
        f"--screenshot={path.with_suffix('.png')}", path.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True, timeout=180)
    image = pytest.importorskip("PIL.Image")  # matplotlib brings it
    return np.array(image.open(io.BytesIO(path.with_suffix(".png").read_bytes())).convert("RGB")).astype(int)


@needs_chromium
@pytest.mark.parametrize("width", [500, 1600])
def test_chromium_shows_it_light_and_dark(tmp_path, width):
    path = tmp_path / "report.html"
    inspect(strange_model(), samples()).write(path)
    light = screenshot(path, width)
    dark = screenshot(path, width, "--blink-settings=preferredColorScheme=0")
    assert light.shape == dark.shape == (900, width, 3)
    for picture, paper in ((light, [255, 255, 255]), (dark, [20, 23, 26])):
        assert picture[0, 0].tolist() == paper
        assert (picture[:, -8:] == paper).all()  # nothing sticks out
    blue = [[0, 114, 178], [86, 180, 233]]
    assert all((np.abs(picture - color).max(2) == 0).sum() > 1000 for picture, color in zip((light, dark), blue, strict=True))


@needs_chromium
def test_nothing_is_wider_than_a_telephone(tmp_path):
    """As Chromium lays it out in a frame of 400 pixels."""
    path, frame = tmp_path / "report.html", tmp_path / "frame.html"
    inspect(strange_model(), samples()).write(path)
    frame.write_text(
        '<iframe id="f" style="width:400px;height:800px;border:0" src="report.html"></iframe><script>window.onload = () => {'
        'const root = f.contentDocument.documentElement; document.title = root.clientWidth + " " + root.scrollWidth;}</script>'
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--allow-file-access-from-files", "--dump-dom", frame.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout
    client, scroll = map(int, re.search(r"<title>(\d+) (\d+)</title>", shown).groups())
    assert 380 <= client <= 400 and scroll == client


def test_in_a_notebook_it_is_a_frame():
    shown = inspect(network(), samples())._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "<html" not in shown


def test_exactnorms_own_and_frozen_modules():
    model = exactnorm.torch.convert(network())
    assert inspect(model, samples()).norms["1"].pooled_mean.tolist() == inspect(network(), samples()).norms["1"].pooled_mean.tolist()


def test_compiled_models_are_run_as_they_stand():
    model, batches = network().eval(), samples()
    expected = inspect(model, batches).norms["1"]
    compiled = torch.compile(model, backend="eager")
    compiled(batches[0])
    found = inspect(compiled, batches)
    assert not found.untouched and found.norms["_orig_mod.1"].pooled_mean.tolist() == expected.pooled_mean.tolist()
    assert isinstance(found.norms["_orig_mod.1"].fold, FoldedNorm)
    result = exactnorm.torch.recalibrate(compiled, [torch.randn(4, 3, 9, 9)])
    assert [norm.count for norm in result.norms.values()] == [4 * 49, 4 * 49]


class SetsModes(nn.Sequential):
    """Its train() returns nothing, and does more than setting a flag."""

    def __init__(self, *modules):
        super().__init__(*modules)
        self.doubled = False

    def train(self, mode=True):
        super().train(mode)
        if self.doubled == mode:
            self.doubled = not mode


def test_modes_are_put_back_by_train():
    model = SetsModes(*network())
    model.train()
    model[1].eval()
    found = inspect(model, samples())
    assert isinstance(found.norms["1"].fold, FoldedNorm)
    assert model.training and not model.doubled and not model[1].training and model[6].training
    model.eval()
    assert len(exactnorm.torch.fold(model, (samples()[0],))[1].folded) == 1


def test_a_model_that_cannot_be_copied():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.factor = torch.ones(3, requires_grad=True) * 2

        def forward(self, x):
            return self.norm(x) * self.factor

    found = inspect(Odd(), [torch.randn(4, 3)])
    assert found.norms["norm"].count == 4 and "the model cannot be folded: " in found.norms["norm"].fold.reason


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("loader", [None, [torch.randn(50, 3, generator=torch.Generator().manual_seed(1))]])
def test_parameters_that_are_not_finite(name, value, loader):
    norm = nn.BatchNorm1d(3)
    with torch.no_grad():
        getattr(norm, name)[1] = value
    found = inspect(nn.Sequential(norm), loader)
    assert kinds(found.norms["0"])["unusable"] == [1] and "dead" not in kinds(found.norms["0"])
    assert "nan" not in str(found) and json.loads(found.to_json())


def test_outputs_that_overflow():
    norm = nn.BatchNorm1d(2).half()
    norm.weight.data[1] = 60000
    found = inspect(nn.Sequential(norm), [torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).half()]).norms["0"]
    assert kinds(found)["overflowing"] == [1] and found.outputs.not_finite > 0
    assert "not finite" in inspect(nn.Sequential(norm), [torch.randn(50, 2).half()]).to_html()


def test_one_channel_that_is_not_finite_hides_no_other():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    x[0, 0] = float("nan")
    norm = nn.BatchNorm1d(3)
    norm.running_mean[1] = 50.0
    found = inspect(nn.Sequential(norm), [x])
    assert re.search(r"largest (49|50)", found.to_html()) and re.search(r"\n0 +3 +50 +(49|50)", str(found))


def test_layers_of_another_kind_are_named():
    class Last(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x.transpose(1, 2)).transpose(1, 2)

    class Named(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.named, self.last = Named(3), Last(5)

        def forward(self, x):
            return self.last(self.named(x=x))

    found = inspect(Both(), [torch.randn(4, 3, 5).transpose(1, 2).transpose(1, 2)[:, :, :5]])
    assert found.norms["named"].count == 20
    assert inspect(nn.Sequential(Last(7)), [torch.randn(4, 3, 7)]).untouched["0"].startswith("its values cannot be added up: ")
    with pytest.raises(ValueError, match=r"model: 0 gets values of shape \(4, 3, 7\); expected 7 channels on axis 1"):
        exactnorm.torch.recalibrate(nn.Sequential(Last(7)), [torch.randn(4, 3, 7)])


def test_models_that_are_none():
    with pytest.raises(ValueError, match="model: 0 is not initialized yet"):
        inspect(nn.Sequential(nn.LazyBatchNorm1d()))
    with pytest.raises(TypeError, match="model: is a torch.jit.ScriptModule"):
        inspect(torch.jit.script(network()))
