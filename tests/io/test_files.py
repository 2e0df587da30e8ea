import os

import pytest

from osteo_ray.io.files import replaced


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replaced(path) as tmp:
        tmp.write_text("one")
        assert not path.exists()
        assert tmp.parent == path.parent, "a rename between file systems would not be atomic"
    assert path.read_text() == "one"
    with pytest.raises(UnicodeEncodeError), replaced(path) as tmp:
        tmp.write_text("half" + chr(0xD800), encoding="utf-8")
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["a.txt"], "nothing is left behind"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replaced(path, durable=True) as a, replaced(path, durable=True) as b:
        a.write_text("a")
        b.write_text("b")
    assert path.read_text() == "a", "the outer block ends last"


def test_permissions_set_on_the_new_file_are_kept(tmp_path):
    path = tmp_path / "secret.json"
    with replaced(path) as tmp:
        tmp.touch(mode=0o600)
        tmp.write_text("{}")
    assert path.stat().st_mode & 0o777 == 0o600
