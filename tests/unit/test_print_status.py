from run.files import partial, write_json
from run.print_status import read_statuses


def test_a_status_that_is_being_written_or_was_left_half_written_is_no_status(tmp_path):
    file = tmp_path / "tiny/status/train_adapter/base/em.s42.json"
    write_json(file, {"job": "base/em.s42"})
    with partial(file) as temporary:
        temporary.write_text("{")
        assert read_statuses(tmp_path) == [{"job": "base/em.s42"}]
