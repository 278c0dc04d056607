"""The package's README and addresses, which depend on where it is built.

Links in the README are relative, so that they work in every copy of the repository. A package index needs absolute
ones: GitHub's workflows say in the environment which repository and commit they build.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

URLS = {
    "Paper": "https://arxiv.org/abs/2310.12190",
    "Published models": "https://huggingface.co/Doubiiu",
}


def urls(environment: Mapping[str, str]) -> dict[str, str]:
    """The project's addresses, with its own if the environment says where it is built."""
    if "GITHUB_REPOSITORY" not in environment:
        return URLS
    repository = f"{environment['GITHUB_SERVER_URL']}/{environment['GITHUB_REPOSITORY']}"
    blob = f"{repository}/blob/{environment['GITHUB_SHA']}"
    own = {"Repository": repository, "Issues": f"{repository}/issues", "Changelog": f"{blob}/CHANGELOG.md"}
    return own | URLS


def absolute_links(readme: str, environment: Mapping[str, str]) -> str:
    """A Markdown text with its relative links absolute, images as raw files, if the environment says to where."""
    if "GITHUB_REPOSITORY" not in environment:
        return readme
    repository = f"{environment['GITHUB_SERVER_URL']}/{environment['GITHUB_REPOSITORY']}"

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({repository}/{kind}/{environment['GITHUB_SHA']}/{link['path']})"

    return re.sub(r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?P<path>(?!https?:|#)[^)]+)\)", absolute, readme)


class ReadmeHook(MetadataHookInterface):
    """Sets `readme` and `urls` of the project's metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        with open(os.path.join(self.root, "README.md"), encoding="utf-8") as file:
            text = absolute_links(file.read(), os.environ)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls(os.environ)
