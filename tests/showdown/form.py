"""The form of the report: blocks as markdown and as HTML."""

from __future__ import annotations

import html

Table = list[list[str]]
# Text, a table, or the name of a picture with what it shows.
Block = str | Table | tuple[str, str]


def milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def markdown(block: Block) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, tuple):
        name, alt = block
        return f"![{alt}]({name}.png)"
    head, *rows = block
    rule = ["---" if text else "---:" for text in texts(block)]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def texts(table: Table) -> list[bool]:
    """Which columns have words, which stand on the left, rather than figures."""
    return [any(cell[:1].isalpha() for cell in column[1:]) for column in zip(*table, strict=True)]


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_html(block: Block) -> str:
    if isinstance(block, tuple):
        name, alt = block
        picture = f'<div class="wide"><img src="{name}.svg" alt="{html.escape(alt)}"></div>'
        return f'<figure>{picture}<figcaption>{html.escape(alt)} (<a href="{name}.png">PNG</a>)</figcaption></figure>'
    if isinstance(block, list):
        head, *rows = block
        words = texts(block)
        body = "\n".join(table_row("td", row, words) for row in rows)
        table = f"<table><thead>{table_row('th', head, words)}</thead>\n<tbody>{body}</tbody></table>"
        return f'<div class="wide">{table}</div>'
    if block.startswith("#"):
        level = len(block) - len(block.lstrip("#"))
        return f"<h{level}>{inline(block.lstrip('# '))}</h{level}>"
    return "\n".join(f"<p>{inline(paragraph)}</p>" for paragraph in block.split("\n\n"))


def table_row(tag: str, row: list[str], words: list[bool]) -> str:
    cells = []
    for cell, word in zip(row, words, strict=True):
        # Sentences may break, figures and names don't.
        kind = ("long" if len(cell) > 40 else "word") if word else ""
        cells.append(f'<{tag} class="{kind}">{inline(cell)}</{tag}>' if kind else f"<{tag}>{inline(cell)}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def inline(text: str) -> str:
    """The little markdown that the texts above use."""
    for mark, tag in (("`", "code"), ("**", "strong"), ("*", "em")):
        parts = text.split(mark) if tag != "code" else html.escape(text, quote=False).split(mark)
        if len(parts) % 2 == 0:
            continue
        text = "".join(f"<{tag}>{part}</{tag}>" if odd % 2 else part for odd, part in enumerate(parts))
    return text


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The showdown</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .5rem; border-bottom: 1px solid #ddd; text-align: right; }}
td {{ white-space: nowrap; }}
.word, .long {{ text-align: left; }}
td.long {{ white-space: normal; min-width: 11rem; }}
th {{ background: #f6f6f6; vertical-align: bottom; }}
.wide {{ overflow-x: auto; }}
figure {{ margin: 1.5rem 0; }}
img {{ width: 100%; height: auto; background: #fff; }}
/* On a phone, pictures are moved sideways, as tables are, rather than shrunk until nobody can read them. */
@media (max-width: 700px) {{ img {{ width: 720px; }} h1 {{ font-size: 1.5rem; line-height: 1.25; }} }}
figcaption {{ font-size: 14px; color: #666; }}
code {{ background: #f2f2f2; padding: 0 .2em; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
