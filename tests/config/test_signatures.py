"""What a class or function takes, read from its source, against what Python says of it."""

import inspect
import os
import re
import subprocess
import sys

import pytest
from hydra.utils import get_object

from tlearn.config.signatures import ANY, parameters
from tlearn.config.tree import CONF_DIR

SHIPPED = sorted(
    {one for file in CONF_DIR.rglob("*.yaml") for one in re.findall(r"_target_: ([\w.]+)", file.read_text())}
)
# Which need an extra, or are given where there is nothing beside them
_OTHERS = ("tlearn.sweeps.prune.Prune",)
OFTEN = (
    "torch.optim.RMSprop",
    "torch.optim.lr_scheduler.OneCycleLR",
    "torch.nn.functional.cross_entropy",
    "torchvision.transforms.v2.RandomErasing",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.RichProgressBar",
)


@pytest.mark.parametrize("target", [*(one for one in SHIPPED if one not in _OTHERS), *OFTEN])
def test_source_and_python_say_the_same(target):
    found = [one for one in parameters(target) if one != ANY]
    there = inspect.signature(get_object(target)).parameters
    assert found == [name for name in there if name in found]
    if ANY not in parameters(target):
        assert set(found) == {name for name, one in there.items() if one.kind is not one.POSITIONAL_ONLY}


def test_most_of_what_is_shipped_says_all_that_it_takes():
    unknown = [one for one in SHIPPED if ANY in parameters(one)]
    assert len(unknown) < len(SHIPPED) / 3, unknown
    assert all(ANY not in parameters(one) for one in OFTEN)


OWN = """
import functools
from dataclasses import dataclass, field
from torch import nn
from .parts import Base, make as maker, wide as narrow, narrow as wide

class Plain:
    def __init__(self, scale, *, bias=True): ...

class Open:
    def __init__(self, scale, **more): ...

class Inherits(Base):
    pass

class OfAnother(nn.Linear):
    pass

class Nothing:
    def __init__(self): ...

class Bundled:
    def __init__(*parts, scale, bias): ...

class Assigned(Base):
    __init__ = maker

class Conditional(Base):
    if True:
        def __init__(self, width): ...

class Patched:
    def __init__(self, scale): ...
Patched.__init__ = lambda self, width: None

class Fielded:
    def __init__(self): ...
    def __init_subclass__(cls): dataclass(cls)

class Given(Fielded):
    scale: float

class Replaced:
    def __init__(self, scale): ...
try:
    import missing
except ImportError:
    class Replaced:
        def __init__(self, width): ...

class Two(Base, Plain):
    pass

class Made(Base):
    def __new__(cls, other): ...

class Meta(metaclass=type):
    def __init__(self, scale): ...

@dataclass(frozen=True)
class Fields:
    scale: float
    bias: bool = True

@dataclass
class Ruled:
    scale: float = field(init=False)

@dataclass(init=False)
class Bare:
    scale: float

@dataclass
class Divided:
    scale: float
    if True:
        width: float

@dataclass
class More(Fields):
    other: int = 0

@functools.cache
def cached(scale): ...

def function(scale, /, bias): ...

def plain(scale, bias=True): ...

Plain2 = Plain

def twice(scale): ...
twice = functools.partial(twice, scale=1)

try:
    import missing
except ImportError:
    def fallback(scale): ...

class Rebound:
    def __init__(self, scale): ...
for Rebound in (Rebound,): pass
"""


STARRED = """
from attr import dataclass

class Base:
    def __init__(self, scale): ...
from .parts import *

@dataclass
class Private:
    _scale: float
"""

PLAIN = """
import dataclasses

@dataclasses.dataclass
class Fields:
    scale: float
"""

PARTS = """
class Base:
    def __init__(self, depth=1): ...

def make(width): ...
def wide(much): ...
def narrow(little): ...
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    package = tmp_path / "own_lab_of_signatures"
    package.mkdir()
    (package / "__init__.py").write_text("from .heads import Plain\nfrom .loop import Round\n")
    (package / "heads.py").write_text(OWN)
    (package / "parts.py").write_text(PARTS)
    (package / "starred.py").write_text(STARRED)
    (package / "fields.py").write_text(PLAIN)
    (package / "loop.py").write_text("from . import Round\n")
    (package / "broken.py").write_text("def head(scale:\n")
    (package / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\ndef head(scale): '\xe4'\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package.name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("heads.Plain", ("scale", "bias")),
        ("Plain", ("scale", "bias")),
        ("heads.Open", ("scale", ANY)),
        ("heads.Inherits", ("depth",)),
        ("heads.OfAnother", (ANY,)),
        ("heads.Nothing", ()),
        ("heads.Bundled", (ANY,)),
        ("heads.Assigned", (ANY,)),
        ("heads.Conditional", (ANY,)),
        ("heads.Bare", (ANY,)),
        ("heads.Divided", (ANY,)),
        ("heads.Patched", (ANY,)),
        ("heads.Fielded", (ANY,)),
        ("heads.Given", (ANY,)),
        ("heads.Replaced", (ANY,)),
        ("starred.Base", (ANY,)),
        ("starred.Private", (ANY,)),
        ("fields.Fields", ("scale",)),
        ("heads.wide", ("little",)),
        ("heads.narrow", ("much",)),
        ("heads.Two", (ANY,)),
        ("heads.Made", (ANY,)),
        ("heads.Meta", (ANY,)),
        ("heads.Fields", ("scale", "bias")),
        ("heads.Ruled", (ANY,)),
        ("heads.More", (ANY,)),
        ("heads.cached", (ANY,)),
        ("heads.function", (ANY,)),
        ("heads.plain", ("scale", "bias")),
        ("heads.maker", ("width",)),
        ("heads.Plain2", (ANY,)),
        ("heads.twice", (ANY,)),
        ("heads.fallback", (ANY,)),
        ("heads.Rebound", (ANY,)),
        ("heads.missing", (ANY,)),
        ("Round", (ANY,)),
        ("broken.head", (ANY,)),
        ("latin.head", ("scale",)),
        ("nowhere.head", (ANY,)),
    ],
)
def test_what_own_code_takes(own, name, expected):
    assert parameters(f"{own}.{name}") == expected
    assert own not in sys.modules


def test_a_file_that_was_changed_is_read_again(own, tmp_path):
    file = tmp_path / own / "parts.py"
    assert parameters(f"{own}.parts.make") == ("width",)
    file.write_text("def make(width, depth): ...\n")
    os.utime(file, ns=(1, 1))
    assert parameters(f"{own}.parts.make") == ("width", "depth")


@pytest.mark.parametrize("target", [None, "", "head", ".head", "a..b", "sys.exit", "builtins.dict", "no_such_module.x"])
def test_what_has_no_source_may_take_anything(target):
    assert parameters(target) == (ANY,)


def test_nothing_is_imported():
    asked = "from tlearn.config.signatures import parameters; parameters('torch.optim.Adam')"
    code = f"import sys; {asked}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
