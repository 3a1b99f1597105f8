"""Where torch.compile could not load what it makes, it is said before anything is compiled."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from border.private_folder import require_private
from vicreg import kernels


@pytest.mark.parametrize("name", ["there", "not/yet/there"])
def test_a_folder_from_which_nothing_may_be_executed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.setenv(kernels.COMPILED_VARIABLE, str(tmp_path / name))
    kernels.require_executable_folder()
    looked_at = []

    def noexec(path: Path) -> SimpleNamespace:
        looked_at.append(path)
        return SimpleNamespace(f_flag=os.ST_NOEXEC | os.ST_NOSUID)

    monkeypatch.setattr(os, "statvfs", noexec)
    with pytest.raises(ValueError, match=r"executed from .*there \(.* noexec\), .*; set TORCHINDUCTOR_CACHE_DIR to"):
        kernels.require_executable_folder()
    assert looked_at == [tmp_path / "there" if name == "there" else tmp_path]


@pytest.fixture
def no_folder_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing, and is as it was afterwards."""
    for name in (kernels.COMPILED_VARIABLE, kernels.TRITON_VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_folder_named")
def test_compiled_code_is_each_users_own_in_a_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    monkeypatch.setenv(kernels.COMPILED_VARIABLE, str(tmp_path / "shared"))
    own = tmp_path / "shared" / f"user-{os.geteuid()}"
    for _ in range(2):  # a second job in the same process
        assert kernels.keep_compiled_code() == own
    require_private(own)
    assert os.environ[kernels.COMPILED_VARIABLE] == str(own)
    assert os.environ[kernels.TRITON_VARIABLE] == str(own / "triton")


@pytest.mark.usefixtures("no_folder_named")
def test_a_folder_where_others_may_put_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "shared" / f"user-{os.geteuid()}"
    own.mkdir(parents=True)
    for folder in (own.parent, own):
        folder.chmod(0o1777)
    monkeypatch.setenv(kernels.COMPILED_VARIABLE, str(own.parent))
    with pytest.raises(PermissionError, match="others may read it or write there; allowed: a folder of user"):
        kernels.keep_compiled_code()
    assert kernels.TRITON_VARIABLE not in os.environ


@pytest.mark.usefixtures("no_folder_named")
def test_where_none_is_named_it_is_the_same_folder_at_every_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = kernels.keep_compiled_code()
    assert kernels.keep_compiled_code() == first
    monkeypatch.delenv(kernels.COMPILED_VARIABLE)
    assert kernels.keep_compiled_code() == first == tmp_path / f"vicreg-{os.geteuid()}" / "compiled"
