from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcrafter.errors import UsageError
from dcrafter.media.containers import CODECS
from dcrafter.media.encoding import Encoding
from dcrafter.media.formats import FORMATS, Format, describe_codecs, describe_formats, named_format
from dcrafter.media.video import write_video


def test_one_entry_is_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Encoding] = []

    def write_filmstrip(frames: np.ndarray, path: Path, encoding: Encoding) -> None:
        written.append(encoding)
        FORMATS["gif"].write(frames, path, encoding)

    monkeypatch.setitem(FORMATS, "strip", Format((".strip",), write_filmstrip, max_fps=25, help="one long image"))
    assert named_format("cat.STRIP") == "strip"
    assert "strip (one long image)" in describe_formats()
    write_video(np.zeros((2, 8, 8, 3), np.uint8), tmp_path / "cat.strip", fps=20, settings={"seed": 1})
    assert written == [Encoding(20, '{"seed": 1}')]
    with pytest.raises(UsageError, match=r"strip takes 0\.1 to 25"):
        write_video(np.zeros((2, 8, 8, 3), np.uint8), tmp_path / "dog.strip", fps=30)


def test_the_command_line_reads_the_table() -> None:
    code = (
        "from dcrafter.media.animations import write_gif\n"
        "from dcrafter.media.formats import FORMATS, Format\n"
        "FORMATS['strip'] = Format(('.strip',), write_gif, codecs=('tape',))\n"
        "from dcrafter.cli.options import shared_options\n"
        "assert 'strip' in shared_options('animate')['format'].choices\n"
        "import sys\n"
        "assert not {'av', 'PIL', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_entries_do_not_contradict_each_other() -> None:
    suffixes = [suffix for format in FORMATS.values() for suffix in format.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert describe_codecs().split(", ") == [*CODECS]
