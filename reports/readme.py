"""Writes the tables of kept Runs into the READMEs and the page on the 8B shape: `python -m reports.readme`.

A document says where: `<!-- tables of results/NAME: Title; Title -->` and, below, `<!-- end -->`. What stands between the
two is replaced by the Run's tables of these titles (English, as in report.md), in the document's language;
`study NAME` in place of a title is one of `reports.studies`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.record.folder import RunFolder
from harness.util import files
from harness.util.errors import Fault, Refused
from reports import studies, tables
from reports.formats import markdown
from reports.languages import Words

DOCUMENTS = {"README.md": "en", "README.zh-CN.md": "zh", "docs/qwen3_vl_8b.md": "en", "docs/schemes.md": "en"}
BLOCK = re.compile(r"(<!-- tables of ([^:>]+): ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str, root: Path, language: str) -> str:
    """The document's text with its tables made anew; raises Refused for a Run or a title that is not there."""
    return BLOCK.sub(lambda found: found[1] + _block(root, found[2], found[3], language) + found[4], text)


def _block(root: Path, run: str, titles: str, language: str) -> str:
    words = Words(language)
    made = {table.title: table for table in tables.tables(RunFolder.existing(root / run.strip()))}
    made |= {f"study {name}": study(root / run.strip()) for name, study in studies.STUDIES.items() if f"study {name}" in titles}
    wanted = [title.strip() for title in titles.split(";")]
    Refused.if_any(
        Fault(run, f"has no table {title!r}", f"there are: {', '.join(made)}") for title in wanted if title not in made
    )
    return "\n".join("#" + markdown.table(words.table(made[title])) for title in wanted)


def main(arguments: Sequence[str]) -> int:
    """Rewrite the documents of a checkout (default: the current folder)."""
    root = Path(arguments[0]) if arguments else Path()
    try:
        for name, language in DOCUMENTS.items():
            path = root / name
            files.write_text(path, rendered(path.read_text(encoding="utf-8"), root, language))
    except (Refused, OSError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
