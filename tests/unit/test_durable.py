"""A file is there whole, or not at all."""

import os

import pytest

from reckeeper import durable


@pytest.fixture
def synced(monkeypatch):
    """Return the names of files and folders that were synced, in order."""
    names, fsync = [], os.fsync

    def note(descriptor):
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return names


def test_a_new_file_has_its_name_when_its_content_is_on_disk(tmp_path, synced):
    with durable.new_file(tmp_path / "a.txt", mode=0o600) as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o600
    assert synced == [temporary.name, tmp_path.name]


def test_a_new_file_never_replaces_one(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    with (
        pytest.raises(FileExistsError),
        durable.new_file(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("second")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]


@pytest.mark.parametrize("is_alone", [False, True])
def test_a_replaced_file_is_the_old_one_or_the_new(tmp_path, synced, is_alone):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with (
        pytest.raises(UnicodeEncodeError),
        durable.replaced_file(path, is_alone=is_alone) as temporary,
    ):
        temporary.write_text("half \ud800")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    with durable.replaced_file(path, is_alone=is_alone) as temporary:
        temporary.write_text("new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]
    assert synced == [temporary.name, tmp_path.name]


def test_a_device_or_a_pipe_is_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError), durable.replaced_file(pipe):
        pass
    assert pipe.is_fifo()


def test_a_name_that_could_not_be_synced_is_taken_back(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable, "sync_folder", fail)
    with pytest.raises(OSError, match="Input/output"), durable.new_file(tmp_path / "a") as file:
        file.write_text("a")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_with_those_above_them(tmp_path, synced):
    durable.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path.name, "a"]
    durable.make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2
