"""What MkDocs calls while it builds the site (`mkdocs.yml` names this file)."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

from handbook import equations, links, navigation, reference
from handbook import gallery as shows

ROOT = Path(__file__).parent.parent
_LOOKED_UP = ("reference/", "results", "gallery/", "evidence/", "records/", "changelog.md", "performance.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the sections that the navigation leaves open."""
    assert config.nav is not None
    config.nav = navigation.filled(config.nav, ROOT)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the records that pages lead to."""

    def add(place: str, content: str) -> None:
        files.append(File.generated(config, place, content=content))

    for page in reference.pages():
        add(f"reference/{page.stem}.md", page.markdown())
    add("reference/index.md", reference.index())
    printed = shows.printed(ROOT)
    add("gallery/index.md", shows.index(ROOT, printed))
    for path in shows.examples(ROOT):
        add(f"gallery/{path.stem}.md", shows.page(path, printed[path.stem]))
        add(f"gallery/{path.stem}.svg", shows.picture(printed[path.stem]))
    for origin, place in links.MOVED.items():
        if place != "index.md":
            text = (ROOT / origin).read_text(encoding="utf-8")
            add(place, links.rewritten(text, place, ROOT, home=""))
    for folder in links.records_of(ROOT):
        add(f"{links.outside(folder)}/index.md", links.listing(folder, ROOT))
        for path in sorted((ROOT / folder).iterdir()):
            if path.is_file() and not folder.startswith("docs/"):
                place = f"{links.outside(folder)}/{path.name}"
                files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links that leave ``docs/`` to where the site has what they lead to, and methods to their reference."""
    if not page.file.src_uri.startswith(_LOOKED_UP):
        page.meta["search"] = {"boost": 2}  # a page to read before a list of names or figures
    if page.file.generated_by is not None:
        return markdown
    return links.rewritten(markdown, page.file.src_uri, ROOT) + reference.of_method(page.file.src_uri)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw equations, and let a wide table scroll by itself."""
    return (
        equations.to_mathml(html).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Bring along the one script that the theme would fetch from elsewhere: what makes the search work from file://."""
    place = get_relative_url("assets/frame-worker.js", page.url)
    return output.replace("https://unpkg.com/iframe-worker/shim", place)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for the page that says that there is no such page."""
    return output_content.replace("https://unpkg.com/iframe-worker/shim", "/assets/frame-worker.js")
