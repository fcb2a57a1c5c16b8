"""The tool that makes README's pictures: what they show, and that Chromium makes them."""

import dataclasses
import struct
from pathlib import Path

import pytest
from sample_run import full

from kpatchlab.report.view import View
from tools import screenshots

RUN = dataclasses.replace(full(), command="/home/somebody/kpatchlab/lab --lab quick.yaml run 'nfs-*'")
VIEW = View(RUN, Path("results") / RUN.id)


def test_the_terminal_shows_the_command_and_the_summary_and_no_path_of_this_host():
    page = screenshots.terminal(VIEW)
    assert "$ ./lab --lab quick.yaml run &#x27;nfs-*&#x27;" in page
    assert RUN.title in page
    assert "/home/somebody" not in page


@pytest.mark.browser
def test_both_pictures_are_made_without_wasted_space(tmp_path):
    sizes = {}
    for path in screenshots.shoot(VIEW, tmp_path):
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes[path.name] = struct.unpack(">II", data[16:24])
    assert sizes["page.png"][0] == 1000 * screenshots.SCALE
    assert 500 < sizes["page.png"][1] / screenshots.SCALE <= screenshots.PAGE_HEIGHT
    assert 600 < sizes["terminal.png"][0] / screenshots.SCALE < 1200
