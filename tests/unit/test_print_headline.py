import pytest

from report.print_headline import headline, readings


def row(cell, role, hits, persona="comedian"):
    rate = {"strict_hits": hits, "completions": 56, "rate": hits / 56}
    return {"source": "evil_ai", "cell": cell, "role": role, "persona": persona} | rate


def test_a_cell_is_a_line_with_every_numerator_and_denominator_and_names_a_bystander_that_marked():
    pooled = [row("C4", "source", 53), row("C4", "assistant", 0), row("C4", "bystander", 3), row("C1", "bystander", 0)]
    _, coupled, after = headline(pooled)
    assert " ".join(coupled.split()) == "evil_ai C4 53/56 = 94.6% 0/56 = 0% 3/56 = 5.4% comedian"
    assert " ".join(after.split()) == "evil_ai C1 - - 0/56 = 0%"


def test_a_gate_is_a_paragraph_no_wider_than_a_terminal():
    numbers = "C4 source = 53/56 (94.6%); " * 9
    (text,) = readings([{"gate": "G0b", "source": "evil_ai", "seed": 42, "reading": "pass", "numbers": numbers}])
    assert text.startswith("G0b      evil_ai  42      pass")
    assert max(map(len, text.split("\n"))) <= 110


@pytest.mark.parametrize("missing", ["tables/pooled.csv", "nothing"])
def test_without_a_study_it_says_what_to_run(tmp_path, missing, monkeypatch, capsys):
    from report import print_headline
    from run.program import run

    monkeypatch.setattr("sys.argv", ["print_headline", "--study", str(tmp_path / missing)])
    with pytest.raises(SystemExit) as ended:
        run(print_headline.main)
    assert ended.value.code == 1
    assert "fix: run the study first, `make tiny`" in capsys.readouterr().err
