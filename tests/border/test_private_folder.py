"""Another user who knows all names beforehand gets nothing, and changes nothing."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from border.private_folder import private_folder, temporary_folder
from slurm.devcluster.daemons import DevCluster, DevClusterError
from slurm.stage_data import stage
from tests.other_user import NOBODY, act, needs_root, shared_place

ME = os.geteuid()
shared = pytest.fixture(shared_place)

TRAPS = {
    "a folder": ("import os, sys; os.mkdir(sys.argv[1], 0o777)", f"belongs to user {NOBODY}"),
    "a closed folder": ("import os, sys; os.mkdir(sys.argv[1], 0o700)", f"belongs to user {NOBODY}"),
    "a file": ("import sys; open(sys.argv[1], 'w')", f"is no folder of user {NOBODY}"),
    "a link to a folder": (
        "import os, sys; os.symlink('/root', sys.argv[1])",
        f"is a link of user {NOBODY}",
    ),
    "a link to nothing": ("import os, sys; os.symlink('/nothing', sys.argv[1])", f"is a link of user {NOBODY}"),
}


def test_a_folder_is_made_closed_and_found_again(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = private_folder(tmp_path / "deep" / "mine")
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.lstat().st_mode) == 0o700
    (made / "file").touch()
    assert private_folder(made) == made
    assert (made / "file").exists()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o777])
def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(PermissionError, match=f"open has mode 0{mode:o}: others may .*; allowed: a folder of user"):
        private_folder(tmp_path / "open")


def test_a_link_of_ones_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(private_folder(tmp_path / "mine"))
    with pytest.raises(PermissionError, match=f"link is a link of user {ME}"):
        private_folder(tmp_path / "link")


def test_a_place_where_everybody_may_rename_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionError, match=r"lies in .*open, where everybody may rename everything \(chmod \+t"):
        private_folder(tmp_path / "open" / "mine")


@needs_root
@pytest.mark.parametrize("trap", TRAPS)
def test_what_another_user_has_put_under_the_name_is_refused(shared: Path, trap: str) -> None:
    program, said = TRAPS[trap]
    act(program, shared / "name")
    with pytest.raises(PermissionError, match=said):
        private_folder(shared / "name")


@needs_root
def test_a_way_through_another_users_folder_or_link_is_refused(shared: Path) -> None:
    act("import os, sys; os.mkdir(sys.argv[1]); os.chmod(sys.argv[1], 0o1777)", shared / "theirs")
    with pytest.raises(PermissionError, match=f"lies in .*theirs, which belongs to user {NOBODY}"):
        private_folder(shared / "theirs" / "mine")
    private_folder(shared / "mine")
    act("import os, sys; os.symlink(sys.argv[1], sys.argv[2])", shared / "mine", shared / "link")
    with pytest.raises(PermissionError, match=f"lies in .*link, which belongs to user {NOBODY}"):
        private_folder(shared / "link" / "deeper")


@needs_root
def test_another_user_can_neither_read_nor_write_nor_rename(shared: Path) -> None:
    made = private_folder(shared / "mine")
    (made / "file").write_text("secret")
    (made / "file").chmod(0o666)
    tries = """
import os, sys
from pathlib import Path
mine = Path(sys.argv[1])
for what in (lambda: os.listdir(mine), lambda: (mine / "file").read_text(), lambda: (mine / "file").write_text("x"),
             lambda: (mine / "new").touch(), lambda: os.rename(mine, str(mine) + "2"), lambda: os.chmod(mine, 0o777),
             lambda: os.rmdir(mine)):
    try:
        what()
        print("got in")
    except PermissionError:
        print("kept out")
"""
    assert act(tries, made).split("\n") == ["kept out"] * 7
    assert (made / "file").read_text() == "secret"


@needs_root
@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_is_staged_into_another_users_hands(shared: Path, tmp_path: Path, trap: str) -> None:
    source = tmp_path / "train.beton"
    source.write_bytes(b"data")
    program, said = TRAPS[trap]
    act(program, shared / f"vicreg-{ME}")
    with pytest.raises(PermissionError, match=rf"{said}.*choose another folder \(node_local_folder"):
        stage(source, shared)
    act("import os, sys; p = sys.argv[1]; os.rmdir(p) if os.path.isdir(p) and not os.path.islink(p) else os.remove(p)",
        shared / f"vicreg-{ME}")  # fmt: skip
    copy = stage(source, shared)
    assert copy.read_bytes() == b"data"
    assert act("import os, sys; print(os.access(sys.argv[1], os.F_OK))", copy) == "False"


@needs_root
@pytest.mark.parametrize("trap", TRAPS)
def test_the_devcluster_takes_no_folder_of_another_user(shared: Path, trap: str) -> None:
    program, said = TRAPS[trap]
    act(program, shared / "devcluster-0")
    with pytest.raises(DevClusterError, match=f"{said}.*choose another with --folder or DEVCLUSTER_FOLDER"):
        DevCluster.open(shared / "devcluster-0")
    with pytest.raises(DevClusterError, match=said):
        DevCluster(shared / "devcluster-0")._create(1, 0)


@needs_root
def test_a_temporary_folder_has_a_fresh_name_where_its_own_is_taken(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    usual = temporary_folder("compiled")
    assert usual == temporary_folder("compiled") == shared / f"vicreg-{ME}" / "compiled"
    usual.rmdir()
    usual.parent.rmdir()
    act("import os, sys; os.mkdir(sys.argv[1], 0o777)", usual.parent)
    fresh = temporary_folder("compiled")
    assert fresh != usual
    assert stat.S_IMODE(fresh.lstat().st_mode) == 0o700
    assert fresh.lstat().st_uid == ME
