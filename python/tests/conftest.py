"""What tests of all files share."""

import pytest


@pytest.fixture(autouse=True)
def compiled_exactly(request, monkeypatch):
    """Compilers are to see the operator in modules that tests make or convert, but where a test asks for the default."""
    if "torch" not in request.node.fspath.basename or request.node.get_closest_marker("compiled_by_default"):
        return
    from exactnorm.torch import _modules, convert

    monkeypatch.setattr(_modules._ExactBatchNorm, "compiled", "exact")
    monkeypatch.setitem(convert.__kwdefaults__, "compiled", "exact")
