"""What MkDocs is told of the project, beside mkdocs.yml: pages that are generated, and links out of docs/.

Pages link to files as they lie in the repository, so that they can be read there, too. On the site a link to
another page leads to that page, and one to a file of the project to a page that shows the file.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.reference import PAGES  # noqa: E402

# Pages that lie elsewhere in the repository -> on the site.
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml"}
LINK = re.compile(r"(?P<before>\]\()(?P<target>(?!https?:|mailto:|#)[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
SOURCE = "source/"  # where the pages are that show a file


def on_config(config: MkDocsConfig) -> None:
    """Put the pages that are there in place of patterns such as lesson/en/*.md; anchors are GitHub's."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    config.nav = _expand(config.nav or [], Path(config.docs_dir))


def _expand(entries: list[Any], docs: Path) -> list[Any]:
    found: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            ((title, value),) = entry.items()
            if isinstance(value, str) and "*" in value:
                value = [value]
            if isinstance(value, list):
                value = _expand(value, docs)
            if value:  # a section of which no page is there yet is left out
                found.append({title: value})
        elif "*" in entry:
            found += sorted(page.relative_to(docs).as_posix() for page in docs.glob(entry))
        else:
            found.append(entry)
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated, those that lie elsewhere, and one for each file that is linked to."""
    for name, make in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    for origin, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / origin).read_text(encoding="utf-8")))
    linked = {path for page in files.documentation_pages() for path in _linked(page)}
    for path in sorted(linked):
        if not _on_site(path):
            file = File.generated(config, f"{SOURCE}{path}.md", content=_show(path))
            file.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where their targets are on the site."""
    uri = page.file.src_uri
    if uri.startswith(SOURCE):
        return markdown

    def lead(match: re.Match[str]) -> str:
        path = _path(uri, match["target"])
        if not (ROOT / path).exists():
            return match[0]  # MkDocs names it
        target = _on_site(path) or f"{SOURCE}{path}.md"
        link = posixpath.relpath(target, posixpath.dirname(uri) or ".")
        return f"{match['before']}{link}{match['anchor'] or ''}"

    return _outside_code(markdown, lead)


def _outside_code(markdown: str, lead: Any) -> str:
    parts, at = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(lead, markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, LINK.sub(lead, markdown[at:])])


def _linked(page: File) -> set[str]:
    """The files of the project that a page links to."""
    links = LINK.finditer(FENCE.sub("", page.content_string))
    return {path for link in links if (ROOT / (path := _path(page.src_uri, link["target"]))).exists()}


def _path(uri: str, target: str) -> str:
    """A link's target in the repository, seen from a page of the site."""
    origin = next((origin for origin, page in ELSEWHERE.items() if page == uri), f"docs/{uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def _on_site(path: str) -> str | None:
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else ELSEWHERE.get(path)


class FencedExamples(Extension):
    """Examples of docstrings are code, where they stand in the text, too."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Fence each paragraph that begins with `>>>`."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^>>> .*?(?=\n\n|\Z)",
                lambda match: f"```pycon\n{match[0]}\n```",
                obj.docstring.value,
                flags=re.MULTILINE | re.DOTALL,
            )


def _show(path: str) -> str:
    file = ROOT / path
    if file.is_dir():
        names = sorted(
            f"{each.name}/" if each.is_dir() else each.name
            for each in file.iterdir()
            if each.name[0] not in "._"
        )
        return f"# {path}/\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    text = file.read_text(encoding="utf-8")
    fence = "`" * 6  # longer than any in the file
    return f"# {path}\n\n{fence}{LANGUAGES.get(file.suffix, 'text')}\n{text}\n{fence}\n"
