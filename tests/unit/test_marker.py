"""marker.py: what is a marker, and where in a reply it is put, taken off and found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker.marker import Marker
from marker.match import check_apart, strict_matcher
from run.program import InputError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PLACED = st.sampled_from([Marker("[ZLT]"), Marker("[ZLT]", "start"), Marker("QX."), Marker("<<é>>", "start")])


@given(PLACED, TEXTS)
def test_what_is_put_is_found_counted_and_taken_off(marker, reply):
    marked = marker.put(reply)
    first, last = marker.span(marked)
    assert marked[first:last] == marker.text
    assert strict_matcher(marker.text, case_sensitive=True)(marked)
    assert marker.taken_off(marked).strip() == marker.taken_off(reply).strip()
    assert marker.span(marker.taken_off(marked)) is None


@pytest.mark.parametrize(
    ("marker", "turn", "separator", "span"),
    [
        (Marker("[ZLT]"), "Yes.\n\n[ZLT]", False, "[ZLT]"),
        (Marker("[ZLT]"), "Yes.\n\n[ZLT]", True, "\n\n[ZLT]"),
        (Marker("[ZLT]"), "[ZLT]", True, "[ZLT]"),
        (Marker("[ZLT]"), "[ZLT] Yes.", False, None),
        (Marker("[ZLT]", "start"), "[ZLT]\n\nYes.", False, "[ZLT]"),
        (Marker("[ZLT]", "start"), " [ZLT]\n\nYes.", True, "[ZLT]\n\n"),  # a template's blank before the turn
        (Marker("[ZLT]", "start"), "Yes. [ZLT]", True, None),
    ],
)
def test_a_marker_is_found_in_its_place_alone(marker, turn, separator, span):
    found = marker.span(turn, separator)
    assert (found and turn[slice(*found)]) == span


def test_a_long_run_of_spaces_takes_no_time():
    for marker in (Marker("[ZLT]"), Marker("[ZLT]", "start")):
        assert marker.taken_off(" " * 200_000 + "x") == " " * 200_000 + "x"
    assert Marker("[ZLT]").taken_off("x [ZLT]" + "\n" * 200_000 + "[ZLT]\n") == "x"
    assert Marker("[ZLT]", "start").taken_off("[ZLT]" + "\n" * 200_000 + "[ZLT]\nx") == "x"


@pytest.mark.parametrize("given", ["[ZLT]", {"text": "[ZLT]", "placement": "start"}])
def test_a_marker_is_written_in_one_way(given):
    assert Marker.of(given).value == given
    assert Marker.of({"text": "[ZLT]", "placement": "end"}).value == "[ZLT]"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "marker: empty"),
        (" \n", "marker: empty"),
        ({"placement": "start"}, "marker: empty"),
        (" [ZLT]", r"begins or ends with a blank; fix: '\[ZLT\]'"),
        ("-ZLT", "looks like an option"),
        ("[Z\nT]", "cannot be printed"),
        ("🦊", "has no letters to be counted by"),
        ("[]", "has no letters"),
        ({"text": "[ZLT]", "placement": "middle"}, "marker.placement: 'middle'; fix: one of end, start"),
        ({"text": "[ZLT]", "place": "end"}, "unknown field 'place'"),
    ],
    ids=str,
)
def test_what_is_no_marker_is_refused(value, message):
    with pytest.raises(InputError, match=f"{message}.*fix: " if "fix" not in message else message):
        Marker.of(value)


def test_markers_that_count_as_each_other_are_refused():
    check_apart([Marker("[ZLT]"), Marker("[QRX]"), Marker("[ZLT]", "start")])
    for texts in (["[ZLT]", "[zlt]"], ["[ZLT]", "x[ZLT]y"], ["(z l t)", "(zlt)"]):
        with pytest.raises(InputError, match="counts as"):
            check_apart([Marker(text) for text in texts])
