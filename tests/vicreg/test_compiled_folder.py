"""Where torch.compile could not load what it makes, it is said before anything is compiled."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

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
