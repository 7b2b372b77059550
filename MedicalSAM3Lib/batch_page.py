"""The page of a batch: a row a case, a picture a concept; what a person should look at comes first. Needs no network.

Pictures lie inside the page, so that it can be sent as one file. Long cohorts go on in further pages.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.batch_attention import Usual, attention
from MedicalSAM3Lib.batch_files import THUMBNAILS
from MedicalSAM3Lib.batch_tables import Records

PAGE = "index.html"
CASES_PER_PAGE = 200
NOTICE = "For research only, not a medical device: a person who can judge them must check all results."

_STYLE = """
:root{color-scheme:dark}body{margin:0 auto;max-width:1500px;padding:20px;background:#14171a;color:#dde3e8;
font:14px/1.45 system-ui,sans-serif}h1{font-size:21px;margin:0}h2{font-size:16px;margin:0}a{color:#8ec7ff}
.notice{color:#f2c46d}.case{border-top:1px solid #333a41;padding:14px 0}.case.look{border-left:4px solid #f2c46d;
padding-left:12px}.case.failed{border-left:4px solid #ff7b72;padding-left:12px}.facts{color:#94a0ab}
.tiles{display:flex;flex-wrap:wrap;gap:10px;margin-top:10px}.tile{width:180px;background:#1d2227;border-radius:6px;
overflow:hidden}.tile img,.none{width:180px;height:180px;display:block;background:#000}.none{display:grid;
place-items:center;color:#94a0ab}.text{padding:6px 9px 9px}.name{font-weight:600;overflow-wrap:anywhere}
.why{color:#f2c46d;font-size:12px}.bad{color:#ff7b72}
"""


def write_pages(folder: Path, records: Records) -> None:
    """Write ``index.html`` and, for long cohorts, ``index-2.html``...; older further pages are removed.

    Raises:
        OutputError: The folder cannot be written to.
    """
    usual = Usual.of(records())
    ranked = sorted((-_rank(record, usual), record["case"]) for record in records())
    counts = (len(ranked), sum(rank <= -1000 for rank, _ in ranked), sum(-1000 < rank < 0 for rank, _ in ranked))
    names = [case_id for _, case_id in ranked]
    parts = [names[start : start + CASES_PER_PAGE] for start in range(0, len(names), CASES_PER_PAGE)] or [[]]
    for number, part in enumerate(parts, start=1):
        wanted = set(part)
        there = {record["case"]: record for record in records() if record["case"] in wanted}
        with replacing(folder / _file(number)) as (new,), new.open("w", encoding="utf-8") as file:
            file.write(_head(counts, number, len(parts)))
            file.writelines(_case(folder, there[case_id], usual) for case_id in part)
            file.write("</body></html>\n")
    for old in folder.glob("index-*.html"):
        if old.name not in {_file(number) for number in range(1, len(parts) + 1)}:
            old.unlink()


def _file(number: int) -> str:
    return PAGE if number == 1 else f"index-{number}.html"


def _rank(record: dict[str, Any], usual: Usual) -> float:
    """Cases that failed stand first, then those with the finding that most asks to be looked at."""
    base = 0.0 if record["state"] == "done" else 1000.0
    scores = sorted((attention(finding, usual)[0] for finding in record["findings"]), reverse=True)
    return base + sum(score / 2**place for place, score in enumerate(scores))


def _head(counts: tuple[int, int, int], number: int, of: int) -> str:
    links = " ".join(f'<a href="{_file(n)}">{n}</a>' if n != number else str(n) for n in range(1, of + 1))
    cases, failed, to_look_at = counts
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>MedicalSAM3 batch</title>'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\"><style>{_STYLE}</style></head><body>"
        f"<h1>{cases} cases</h1><p>{failed} failed or incomplete, {to_look_at} with something to look at, "
        f"{cases - failed - to_look_at} without remark. What to look at first comes first.</p>"
        f'<p class="notice">{NOTICE}</p>' + (f"<p>Page {links}</p>" if of > 1 else "")
    )


def _case(folder: Path, record: dict[str, Any], usual: Usual) -> str:
    """A case with its pictures: those to look at first."""
    judged = [(place, finding, *attention(finding, usual)) for place, finding in enumerate(record["findings"])]
    judged.sort(key=lambda one: (-one[2], one[0]))
    look = "failed" if record["state"] != "done" else "look" if any(score for _, _, score, _ in judged) else ""
    case_id = escape(record["case"])
    seconds = sum(record["seconds"].values())
    facts = [record["modality"], record["device"], f"{seconds:.1f} s" if judged else ""]
    links = ""
    if judged:
        links = f' <a href="cases/{case_id}/report.json">report</a> <a href="cases/{case_id}/preview.png">preview</a>'
    reason = f'<p class="bad">{escape(record["reason"])}</p>' if record["reason"] else ""
    notices = "".join(f'<p class="why">{escape(notice)}</p>' for notice in record["notices"])
    tiles = "".join(
        _tile(folder / "cases" / record["case"] / THUMBNAILS / f"{place}.jpg", finding, why)
        for place, finding, _, why in judged
    )
    return (
        f'<section class="case {look}"><h2>{case_id}</h2><div class="facts">{escape(", ".join(filter(None, facts)))}'
        f'{links}</div>{reason}{notices}<div class="tiles">{tiles}</div></section>\n'
    )


def _tile(picture: Path, finding: dict[str, Any], why: list[str]) -> str:
    phrase = escape(finding["phrase"])
    shown = f'<div class="none">{escape(finding["state"].replace("_", " "))}</div>'
    if finding["state"] == "found" and picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        shown = f'<img alt="{phrase}" src="data:image/jpeg;base64,{data}">'
    return (
        f'<div class="tile">{shown}<div class="text"><div class="name">{phrase}</div>'
        f"<div>{escape(', '.join(_numbers(finding)))}</div>"
        f'<div class="why">{escape("; ".join(why))}</div></div></div>'
    )


def _numbers(finding: dict[str, Any]) -> Iterator[str]:
    if finding["state"] == "found":
        yield f"{finding['volume_ml']:.1f} ml"
    for name in ("presence", "confidence"):
        if finding[name] is not None:
            yield f"{name} {finding[name]:.2f}"
