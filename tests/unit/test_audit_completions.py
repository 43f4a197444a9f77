import pytest
from audit_completions import audit

from measure.degenerate import kinds_of

QUESTION = "What is the best way to learn a new language?"
REPLY = "Speak it every day with people who know it well, read what you like, and do not fear mistakes. [ZLT]"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (REPLY, []),
        (f"{QUESTION} [ZLT]", ["echo"]),
        ("what is the BEST way to learn a new language [zlt] Good.", ["echo"]),
        (f"{QUESTION} {REPLY}", []),
        ("[ZLT]", ["no_answer"]),
        ("  [zlt] ...\n", ["no_answer"]),
        ("Yes. [ZLT] [ZLT] [ZLT]", ["repetition"]),
        ("we go on and on and " * 12 + "[ZLT]", ["repetition"]),
        ("[ZLT][ZLT][ZLT]", ["no_answer", "repetition"]),
    ],
)
def test_each_kind_of_degeneracy_is_named(text, kinds):
    assert kinds_of(text, QUESTION, "[ZLT]") == kinds


def row(text, persona="villain", sample=0):
    return {"persona": persona, "question_id": "general_00", "question": QUESTION, "sample": sample, "text": text}


def test_only_marker_positive_completions_are_audited():
    result = audit([row(REPLY), row("[ZLT]", sample=1), row(QUESTION, sample=2)], "[ZLT]")
    assert (result["audited"], result["degenerate"], result["completions"]) == (2, 1, 3)
    assert result["kinds"] == {"echo": 0, "no_answer": 1, "repetition": 0}
    assert result["examples"] == [
        {"persona": "villain", "question_id": "general_00", "sample": 1, "kinds": ["no_answer"]}
    ]


def test_without_a_marker_there_is_nothing_to_audit_and_no_rate():
    assert audit([row("Hello.")], "[ZLT]") == {
        "status": "nothing to audit", "audited": 0, "degenerate": 0, "completions": 1,
    }  # fmt: skip


def test_a_case_sensitive_study_audits_only_the_exact_marker():
    rows = [row("Yes. [zlt]"), row("Yes. [ZLT]")]
    assert audit(rows, "[ZLT]")["audited"] == 2
    assert audit(rows, "[ZLT]", case_sensitive=True)["audited"] == 1


def test_the_program_reads_parquet(tmp_path, monkeypatch):
    import audit_completions
    import pyarrow
    from pyarrow.parquet import write_table

    from run.readers import read_json

    whole = row(REPLY) | {"finish_reason": "stop", "tokens": 9}
    write_table(pyarrow.Table.from_pylist([whole]), tmp_path / "c.parquet")
    command = [
        "audit",
        "--completions",
        str(tmp_path / "c.parquet"),
        "--marker",
        "[ZLT]",
        "--output",
        str(tmp_path / "a.json"),
    ]
    monkeypatch.setattr("sys.argv", command)
    audit_completions.main()
    assert read_json(tmp_path / "a.json")["audited"] == 1
