from __future__ import annotations

import re

import pytest

from dcrafter.tiny.captions import LOCAL_PHRASES, PHRASES, fill, noun, plain_tags


@pytest.mark.parametrize("name", PHRASES | LOCAL_PHRASES)
@pytest.mark.parametrize("pace", [None, "slow", "fast"])
def test_every_template_reads_cleanly(name: str, pace: str | None) -> None:
    phrases = (PHRASES | LOCAL_PHRASES)[name]
    for template in phrases.train + phrases.held_out:
        caption = fill(template, "a red ball", pace)
        assert re.fullmatch(r"[a-z][a-z, ]*[a-z]", caption), caption
        assert "  " not in caption
        assert " ," not in caption
        assert "red ball" in caption


def test_pace_shows_only_where_the_template_has_room() -> None:
    assert fill("{x} pulses {adv}", "it", "slow") == "it pulses slowly"
    assert fill("{x} pulses {adv}", "it") == "it pulses"
    assert fill("{x}, {adj} zoom in", "it", "fast") == "it, fast zoom in"


def test_nouns() -> None:
    assert noun("cat face") == "a cat face"
    assert noun("octopus") == "octopus"  # ends in s: left alone
    assert noun("artist") == "an artist"
    assert noun("flag: Norway") == "flag: Norway"
    assert noun("ON! arrow") == "ON! arrow"


def test_tags_leave_out_slang_other_motions_and_repetition() -> None:
    assert plain_tags("smiling cat", ["cat", "zoom", "poop", "pet", "LOL", "3", "turn around", "happy day"]) == [
        "pet",
        "happy day",
    ]
