"""pool_judges.py as its rule calls it."""

import pool_judges
import pytest
from test_compare_judges import both, compared

from measure.registry import study_rows
from run.program import InputError


def pooled(tmp_path, monkeypatch, first, second):
    table = tmp_path / "judges.csv"
    monkeypatch.setattr("sys.argv", ["pool_judges", "--first", *first, "--second", *second, "--output", str(table)])
    pool_judges.main()
    return {row["measure"]: row for row in study_rows(str(table))}


def test_models_that_are_alike_within_themselves_still_tell_how_judges_rank_them(tmp_path, monkeypatch):
    scores = {"good": ([(90, 90)] * 6, [(80, 85)] * 6), "bad": ([(10, 90)] * 6, [(20, 85)] * 6)}
    files = []
    for name, pair in scores.items():
        (tmp_path / name).mkdir()
        files.append(both(tmp_path / name, *pair))
        assert compared(tmp_path, monkeypatch, *files[-1])["alignment_correlation"]["value"] is None
    rows = pooled(tmp_path, monkeypatch, *zip(*files, strict=True))
    row = rows["study_alignment_correlation"]
    assert (row["source"], row["seed"], row["value"], row["n"]) == ("all", "all", 1, 12)
    assert rows["study_coherence_correlation"]["value"] is None
    assert (rows["study_same_verdict"]["value"], rows["study_same_verdict"]["unit"]) == (1, "share")
    with pytest.raises(InputError, match="--second: 1 files for 2"):
        pooled(tmp_path, monkeypatch, [one for one, _ in files], [files[0][1]])
