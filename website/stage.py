"""The pages of the site, put together from `docs/` and the pages beside it: `python website/stage.py build/site`.

The pages link to one another as files of the repository, so that they work on any forge. The site has no folder above
`docs/`: pages from there become pages of the site, and links to other files become their names.
"""

import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

from lora_ns import __version__

ROOT = Path(__file__).parents[1]

BESIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "benchmarks/README.md": "benchmark-scripts.md",
    "SKILL.md": "skill.md",
}
"""Pages outside of `docs/`, and their names on the site."""

LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)\s]+)\)")


def site_path(file: str) -> str | None:
    """The place on the site of a file of the repository, None if it has none."""
    if file in BESIDE:
        return BESIDE[file]
    inside = PurePosixPath(file)
    return str(inside.relative_to("docs")) if inside.is_relative_to("docs") and (ROOT / file).is_file() else None


def with_site_links(text: str, file: str) -> str:
    """The text of a page with its links as they are on the site."""
    here = posixpath.dirname(site_path(file) or "")

    def replaced(link: re.Match[str]) -> str:
        mark, shown, target = link.groups()
        path, _, anchor = target.partition("#")
        if not path or ":" in path:
            return link[0]
        named = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
        if (place := site_path(named)) is None:
            return f"`{named}`" if shown.strip("`") == named else f"{shown} (`{named}`)"
        return f"{mark}[{shown}]({posixpath.relpath(place, here or '.')}{'#' + anchor if anchor else ''})"

    return LINK.sub(replaced, text)


def version() -> str:
    """The version that the pages are of: the tag, or what lies after it."""
    asked = ("git", "describe", "--tags", "--always", "--dirty")
    described = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return described.removeprefix("v") if described.startswith("v") else f"{__version__} ({described or 'no tag'})"


def stage(folder: Path) -> None:
    """Write the pages and the configuration to a folder, in the place of what it has."""
    shutil.rmtree(folder, ignore_errors=True)
    files = [str(file.relative_to(ROOT)) for file in sorted((ROOT / "docs").rglob("*")) if file.is_file()]
    for file in [*files, *BESIDE]:
        target = folder / "docs" / (site_path(file) or "")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix in {".md", ".txt"}:
            text = (ROOT / file).read_text(encoding="utf-8")
            if file == "SKILL.md":
                text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
            text = with_site_links(text, file)
            target.write_text(text.replace(".md)", ".html)") if target.suffix == ".txt" else text, encoding="utf-8")
        else:
            shutil.copy(ROOT / file, target)
    settings = (ROOT / "website" / "zensical.toml").read_text(encoding="utf-8")
    (folder / "zensical.toml").write_text(settings.replace("@version@", version()), encoding="utf-8")


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
