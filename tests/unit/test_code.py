from graph.code import closure


def test_code_is_the_script_and_all_it_imports_however_deep_and_nothing_else(tmp_path):
    (tmp_path / "a.py").write_text("import json\ndef f():\n    from b import g\n")
    (tmp_path / "b.py").write_text("import c as d, os.path\n")
    (tmp_path / "c.py").write_text("import a\n")
    (tmp_path / "plot.py").write_text("import a\n")
    assert closure(tmp_path, "a.py") == ["a.py", "b.py", "c.py"]
    assert closure(tmp_path, "plot.py") == ["a.py", "b.py", "c.py", "plot.py"]
