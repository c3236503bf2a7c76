"""Hooks of mkdocs.yml: the documents link to each other as files of the repository, and the site has all of them.

A link that leads out of docs/ gets a page of its own under source/, so nothing of the site lies elsewhere: a source
file is shown as it is, a folder as the list of its files. README.md is the first page. Invariant: links are found where
Markdown has them, not in blocks or spans of code; where one leads nowhere, `mkdocs build --strict` fails.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Documents outside docs/, and where they are in the site."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".cpp": "cpp", ".h": "cpp", ".toml": "toml"}

_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FOREIGN = ("http://", "https://", "mailto:", "#")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and one for each file that any page links to."""
    for path, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    linked: set[str] = set()
    for file in list(files.documentation_pages()):
        linked |= {path for path in links_of(file.content_string, repository_path(file.src_uri)) if is_source(path)}
    for path in sorted(linked):
        files.append(File.generated(config, source_page(path), content=shown_source(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to pages of the site."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    origin = repository_path(page.file.src_uri)
    return with_links(markdown, lambda target: site_link(target, origin))


def repository_path(page: str) -> str:
    """Where the text of a page is kept: `access.md` → `docs/access.md`."""
    return next((path for path, name in ROOT_PAGES.items() if name == page), f"docs/{page}")


def site_link(target: str, origin: str) -> str:
    """What leads from the page of a document to the page of what it links to; all those lie side by side."""
    path, anchor = resolved(target, origin)
    if path in ROOT_PAGES:
        page = ROOT_PAGES[path]
    elif path.startswith("docs/"):
        page = path.removeprefix("docs/")
    else:
        page = source_page(path)
    return page + anchor


def links_of(markdown: str, origin: str) -> Iterator[str]:
    """Paths in the repository that a document links to."""
    for part in _CODE.split(markdown)[::2]:
        for _, target, _ in _LINK.findall(part):
            if not target.startswith(_FOREIGN):
                yield resolved(target, origin)[0]


def with_links(markdown: str, replace: Callable[[str], str]) -> str:
    """The text with other targets of its links."""
    parts = _CODE.split(markdown)

    def replaced(link: re.Match[str]) -> str:
        before, target, behind = link.groups()
        return before + (target if target.startswith(_FOREIGN) else replace(target)) + behind

    parts[::2] = [_LINK.sub(replaced, part) for part in parts[::2]]
    return "".join(parts)


def resolved(target: str, origin: str) -> tuple[str, str]:
    """Path in the repository and `#anchor` of a link in a document."""
    path, mark, anchor = target.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)), mark + anchor


def is_source(path: str) -> bool:
    """True for what is there, and is no document."""
    return path not in ROOT_PAGES and not path.startswith("docs/") and (ROOT / path).exists()


def source_page(path: str) -> str:
    """`ipc/codec.py` → `source/ipc/codec.py.md`."""
    return f"source/{path}.md"


def shown_source(path: str) -> str:
    """The page of a file, or of a folder."""
    source = ROOT / path
    if source.is_dir():
        items = [item for item in source.iterdir() if item.name != "__pycache__"]
        names = sorted(item.name + "/" * item.is_dir() for item in items)
        return f"# {path}/\n\n" + "".join(f"- `{name}`\n" for name in names)
    text = source.read_text()
    fence = "`" * (max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1)
    return f"# {path}\n\n{fence}{LANGUAGES.get(source.suffix, 'text')}\n{text}\n{fence}\n"
