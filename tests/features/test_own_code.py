"""Which files of a user's own code are in the feature key, and when that cannot be known."""

import importlib
import os
import sys
import types
from pathlib import Path

import pytest
from torch import nn

from tlearn.features.own_code import UnknownCodeError, code_digests

LAYER = "from torch import nn\nclass Layer(nn.Module):\n    def forward(self, x): return x\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Give a folder from which packages can be imported, which are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def body(module: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), importlib.import_module(module).Layer())


def digest_in_new_process(package: str, module: str) -> str:
    """Hash a package as if nothing of it had been imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return code_digests(body(module), {})[package]


def test_layers_of_libraries_have_no_code_of_their_own():
    assert code_digests(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), {"t": {"_target_": "torch.nn.ReLU"}}) == {}


@pytest.mark.parametrize("kind", ["package", "namespace"])
def test_every_file_of_a_package_counts(place, kind):
    if kind == "package":
        write(place / "lab_one" / "__init__.py", "")
    write(place / "lab_one" / "deep" / "nets.py", LAYER)
    helper = write(place / "lab_one" / "never" / "imported.py", "a = 1\n")
    write(place / "lab_one" / "notes.txt", "a")
    first = digest_in_new_process("lab_one", "lab_one.deep.nets")
    write(place / "lab_one" / "notes.txt", "b")
    assert digest_in_new_process("lab_one", "lab_one.deep.nets") == first
    helper.write_text("a = 2\n", encoding="utf-8")
    second = digest_in_new_process("lab_one", "lab_one.deep.nets")
    helper.rename(helper.with_name("renamed.py"))
    assert len({first, second, digest_in_new_process("lab_one", "lab_one.deep.nets")}) == 3


def test_a_part_that_is_a_link_counts_and_one_that_leads_back_ends(place):
    write(place / "lab_two" / "nets.py", LAYER)
    linked = write(place / "elsewhere" / "helper.py", "a = 1\n")
    os.symlink(place / "elsewhere", place / "lab_two" / "part")
    os.symlink(place / "lab_two", place / "elsewhere" / "back")
    first = digest_in_new_process("lab_two", "lab_two.nets")
    linked.write_text("a = 2\n", encoding="utf-8")
    assert digest_in_new_process("lab_two", "lab_two.nets") != first


def test_a_single_module_counts_with_its_neighbours(place):
    write(place / "lab_nets.py", LAYER)
    helper = write(place / "lab_helper.py", "a = 1\n")
    first = digest_in_new_process("lab_nets", "lab_nets")
    helper.write_text("a = 2\n", encoding="utf-8")
    assert digest_in_new_process("lab_nets", "lab_nets") != first


def test_a_parent_class_of_another_package_counts(place):
    write(place / "lab_parent.py", LAYER)
    write(place / "lab_child.py", "import lab_parent\nclass Layer(lab_parent.Layer): pass\n")
    assert code_digests(body("lab_child"), {}).keys() == {"lab_child", "lab_parent"}


def test_named_parts_count(place):
    write(place / "lab_transforms.py", "")
    named = {"source": {"_target_": "tlearn.x"}, "augmentation": [{"_target_": "lab_transforms.Darken"}]}
    assert code_digests(nn.Linear(1, 1), named).keys() == {"lab_transforms"}


def test_code_that_changes_under_a_process_is_not_known(place):
    file = write(place / "lab_three" / "nets.py", LAYER)
    layers = body("lab_three.nets")
    assert code_digests(layers, {}) == code_digests(layers, {})
    file.write_text(LAYER + "a = 1\n", encoding="utf-8")
    with pytest.raises(UnknownCodeError, match="the code of lab_three has changed since this process imported it"):
        code_digests(layers, {})


def test_code_without_a_file_is_not_known(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "lab_typed", types.ModuleType("lab_typed"))
    for home, reason in (("__main__", "script or notebook"), ("lab_typed", "no file"), ("lab_gone", "cannot be found")):
        layer = type("Layer", (nn.Module,), {"__module__": home})
        with pytest.raises(UnknownCodeError, match=reason):
            code_digests(layer(), {})
