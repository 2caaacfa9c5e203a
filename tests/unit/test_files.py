"""Changes of files are noticed when they are complete, once each."""

from __future__ import annotations

from pathlib import Path

from webhookd.runtime.files import Changes


def test_a_change_is_reported_once_and_only_when_it_has_settled(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    changes = Changes([one, other])  # `other` does not exist yet
    assert [changes.seen() for _ in range(3)] == [False, False, False]
    one.unlink()
    assert not changes.seen()  # the file is being replaced
    one.write_text("2")
    assert not changes.seen()
    assert [changes.seen() for _ in range(3)] == [True, False, False]
    other.write_text("x")
    assert [changes.seen() for _ in range(3)] == [False, True, False]
    other.unlink()
    assert [changes.seen() for _ in range(3)] == [False, True, False]


def test_a_change_that_the_reader_knows_is_not_reported(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.write_text("1")
    changes = Changes([one])
    one.write_text("two")
    changes.note()
    assert [changes.seen() for _ in range(3)] == [False, False, False]
    one.write_text("three")
    changes.seen()
    changes.note()
    assert not changes.seen()


def test_a_change_that_is_undone_is_none(tmp_path: Path) -> None:
    link, old, new = tmp_path / "link", tmp_path / "old", tmp_path / "new"
    old.write_text("1")
    new.write_text("2")
    link.symlink_to(old)
    changes = Changes([link])
    link.unlink()
    link.symlink_to(new)
    assert not changes.seen()
    link.unlink()
    link.symlink_to(old)
    assert [changes.seen() for _ in range(3)] == [False, False, False]
