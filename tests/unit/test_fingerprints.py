"""A fingerprint follows what code does and files say, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import ROOT

from graph.fingerprints import closure, code_fingerprint, file_fingerprint

SCRIPTS = ROOT / "workflow_scripts"
# What two Pythons, or a formatter, might read or write in more than one way.
CODE = '''"""What it is for."""
import os, sys  # both
class Shelf(dict):
    """One shelf."""
    size: int = 3
    def put(self, book, /, *more, place=None, **others):
        "Put it there."
        label = f"{book!r:>{self.size}} at {place=} {'a' + \'b\'} {self.size:03d}{{}}" f'{others}' u"x" 'y'
        with open(os.devnull) as a, open(os.devnull) as b:
            match others:
                case {"kind": None, **rest} if (n := len(rest)) > 1_000: return (n, 0x1F, 1E5, 1e400, b"\\xff", 2j)
                case [Shelf(size=3) | None, *_]: pass
                case _: yield label[1:, ::2], "caf\\u00e9 \\U0001fae8", ...
        try: print(*more, sep="")
        except* (ValueError, OSError) as error: raise error from None
    async def fetch(self): return [await x async for x in self if not x] + [lambda: (yield)]
'''
SAME = {
    "comments": CODE.replace("import os, sys  # both", "# all of it\nimport os, sys"),
    "docstrings": CODE.replace('"""One shelf."""', "'''Two shelves,\n    at most.'''").replace('"Put it there."', ""),
    "module docstring gone": CODE.partition("\n")[2],
}
OTHER = {
    "a number": CODE.replace("size: int = 3", "size: int = 4"),
    "a text": CODE.replace("caf", "kaf"),
    "a default": CODE.replace("place=None", "place=0"),
    "an order": CODE.replace("os, sys", "sys, os"),
    "a statement gone": CODE.replace("try: print", "try: pass #"),
}
EVERY = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from graph.fingerprints import code_fingerprint
print(json.dumps({file.name: code_fingerprint(Path(sys.argv[2]), file.name) for file in Path(sys.argv[2]).glob("*.py")}))
"""


def of(tmp_path, text):
    """The code fingerprint of a program with that text."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    (folder / "program.py").write_text(text)
    return code_fingerprint(folder, "program.py")


def test_code_is_the_script_and_all_it_imports_however_deep_and_nothing_else(tmp_path):
    (tmp_path / "a.py").write_text("import json\ndef f():\n    from b import g\n")
    (tmp_path / "b.py").write_text("import c as d, os.path\n")
    (tmp_path / "c.py").write_text("import a\n")
    (tmp_path / "plot.py").write_text("import a\n")
    assert closure(tmp_path, "a.py") == ["a.py", "b.py", "c.py"]
    assert closure(tmp_path, "plot.py") == ["a.py", "b.py", "c.py", "plot.py"]


def test_a_module_of_a_room_brings_the_room_s_own_code(tmp_path):
    (tmp_path / "room").mkdir()
    for name in ("room/__init__.py", "room/a.py", "room/b.py", "other.py"):
        (tmp_path / name).touch()
    (tmp_path / "one.py").write_text("from room import a\n")
    (tmp_path / "two.py").write_text("from room.b import x\n")
    assert closure(tmp_path, "one.py") == ["one.py", "room/__init__.py", "room/a.py"]
    assert closure(tmp_path, "two.py") == ["room/__init__.py", "room/b.py", "two.py"]


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_comments_and_docstrings_change_no_fingerprint(tmp_path, text):
    assert text != CODE and of(tmp_path, text) == of(tmp_path, CODE)


@pytest.mark.parametrize("text", OTHER.values(), ids=OTHER)
def test_any_other_edit_changes_it(tmp_path, text):
    assert text != CODE and of(tmp_path, text) != of(tmp_path, CODE)


def test_a_statement_in_a_module_changes_the_fingerprints_of_those_that_import_it(tmp_path):
    for name, text in {"a": "import b", "b": "x = 1", "c": "x = 1"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    before = [code_fingerprint(tmp_path, f"{name}.py") for name in "abc"]
    shutil.copytree(tmp_path, tmp_path / "edited")
    (tmp_path / "edited/b.py").write_text("x = 2")
    after = [code_fingerprint(tmp_path / "edited", f"{name}.py") for name in "abc"]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False, True]


def test_the_formatter_changes_no_fingerprint_of_a_program_whatever_its_settings(tmp_path):
    folder = tmp_path / "formatted"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "sample.py").write_text(CODE)
    shutil.copytree(folder, tmp_path / "plain")
    options = ["--config", "line-length = 60", "--config", "format.quote-style = 'single'"]
    subprocess.run([Path(sys.executable).with_name("ruff"), "format", "-q", "--isolated", *options, folder], check=True)
    assert (folder / "sample.py").read_text() != CODE
    for file in folder.glob("*.py"):
        assert code_fingerprint(folder, file.name) == code_fingerprint(tmp_path / "plain", file.name), file.name


def other_python():
    """The other supported Python, if it is on this machine."""
    name = "python3.11" if sys.version_info[:2] == (3, 12) else "python3.12"
    versions = (
        Path(os.environ.get("PYENV_ROOT", "~/.pyenv"))
        .expanduser()
        .glob(f"versions/{name.removeprefix('python')}*/bin/{name}")
    )
    return next((str(path) for path in [*versions, *filter(None, [shutil.which(name)])]), None)


def test_python_3_11_and_3_12_find_the_same_fingerprints(tmp_path):
    python = other_python()
    if python is None:
        pytest.skip("needs both Python 3.11 and 3.12 on this machine")
    folder = tmp_path / "programs"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "sample.py").write_text(CODE)
    found = [
        json.loads(
            subprocess.run([one, "-c", EVERY, SCRIPTS, folder], capture_output=True, check=True, text=True).stdout
        )
        for one in (sys.executable, python)
    ]
    assert found[0] == found[1] and len(found[0]) > 20


@pytest.mark.parametrize(
    ("name", "text", "same", "other"),
    [
        ("a.yaml", "b: [1, 2]  # of\na: x\n", "# more\nb:\n  - 1\n  - 2\na: 'x'\n", "a: x\nb: [1, 2]\n"),
        ("a.txt", "# a lock\ntorch==2.13.0\n", "torch==2.13.0  # new\n\n", "torch==2.13.1\n"),
        ("a.csv", "a,b\n1,2\n", "a,b\n1,2\n", "a,b\n1,3\n"),
    ],
)
def test_a_file_s_fingerprint_is_that_of_what_it_says_wherever_it_lies(tmp_path, name, text, same, other):
    files = [tmp_path / folder / name for folder in "abc"]
    for file, own in zip(files, (text, same, other), strict=True):
        file.parent.mkdir()
        file.write_text(own)
    one, two, three = map(file_fingerprint, files)
    assert one == two != three
    assert file_fingerprint(files[0], files[2]) != file_fingerprint(files[2], files[0])
