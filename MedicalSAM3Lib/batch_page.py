"""The page of a batch: a row a case, a picture a concept; what a person should look at comes first. Needs no network.

Pictures lie inside the page, so that it can be sent as one file. Long cohorts go on in further pages.
"""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.batch_attention import Usual, attention
from MedicalSAM3Lib.batch_files import PREVIEW, REPORT, THUMBNAILS
from MedicalSAM3Lib.batch_tables import SUMMARY, Records
from MedicalSAM3Lib.report import RESEARCH_NOTICE

PAGE = "index.html"
CASES_PER_PAGE = 100
FAILED = 1000.0
"""What failed ranks before all findings together."""

_STYLE = """
:root{color-scheme:dark}body{margin:0 auto;max-width:1320px;padding:20px;background:#14171a;color:#dde3e8;
font:15px/1.45 system-ui,sans-serif}h1{font-size:22px;margin:0}h2{font-size:17px;margin:0;overflow-wrap:anywhere}
h2 small{font-weight:400;font-size:13px;color:#94a0ab;margin-left:8px}a{color:#8ec7ff}p{margin:4px 0}
.notice,.why{color:#f2c46d}.case{border-left:4px solid #3c454d;padding:2px 0 2px 14px;margin:22px 0}
.case.look{border-color:#f2c46d}.case.failed{border-color:#ff8a82}.bad{color:#ff8a82}.facts{color:#94a0ab;font-size:13px}
table{border-collapse:collapse;margin:14px 0}th,td{text-align:left;vertical-align:top;padding:4px 18px 4px 0}
caption{text-align:left;font-weight:600;color:#ff8a82;padding-bottom:2px}tr{border-top:1px solid #333a41}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin-top:10px}.tile{width:240px;background:#1d2227;border-radius:6px;
overflow:hidden}.tile.look{outline:2px solid #f2c46d}
img{display:block;width:240px;height:240px}.text{padding:7px 10px 10px}.name{font-weight:600;overflow-wrap:anywhere}
.name span{float:right;font-weight:400}.tile .why{font-size:13px;margin-top:3px}
"""


def write_pages(folder: Path, records: Records) -> None:
    """Write ``index.html`` and, for long cohorts, ``index-2.html``...; older further pages are removed.

    Raises:
        OutputError: The folder cannot be written to.
    """
    usual = Usual.of(records())
    ranked = sorted((-_rank(record, usual), record["case"]) for record in records())
    names = [case_id for _, case_id in ranked]
    parts = [names[start : start + CASES_PER_PAGE] for start in range(0, len(names), CASES_PER_PAGE)] or [[]]
    for number, part in enumerate(parts, start=1):
        wanted = set(part)
        there = {record["case"]: record for record in records() if record["case"] in wanted}
        cases = [there[case_id] for case_id in part]
        with replacing(folder / _file(number)) as (new,), new.open("w", encoding="utf-8") as file:
            file.write(_head([rank for rank, _ in ranked], cases, number, len(parts)))
            file.write(_without_answers([record for record in cases if not record["findings"]]))
            file.writelines(_case(folder, record, usual) for record in cases if record["findings"])
            file.write("</body></html>\n")
    for old in folder.glob("index-*.html"):
        if old.name not in {_file(number) for number in range(1, len(parts) + 1)}:
            old.unlink()


def _file(number: int) -> str:
    return PAGE if number == 1 else f"index-{number}.html"


def _rank(record: dict[str, Any], usual: Usual) -> float:
    """Cases that failed stand first, then those with the finding that most asks to be looked at."""
    base = 0.0 if record["state"] == "done" else FAILED
    scores = sorted((attention(finding, usual)[0] for finding in record["findings"]), reverse=True)
    return base + sum(score / 2**place for place, score in enumerate(scores))


def _head(ranks: list[float], cases: list[dict[str, Any]], number: int, of: int) -> str:
    links = " ".join(f'<a href="{_file(n)}">{n}</a>' if n != number else str(n) for n in range(1, of + 1))
    failed, to_look_at = sum(rank <= -FAILED for rank in ranks), sum(-FAILED < rank < 0 for rank in ranks)
    counts = [(failed, "failed or incomplete"), (to_look_at, "with something to look at"),
              (len(ranks) - failed - to_look_at, "without remark")]  # fmt: skip
    notices = dict.fromkeys(record["model_notice"] for record in cases if record["findings"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>MedicalSAM3 batch</title>'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\"><style>{_STYLE}</style></head><body>"
        f"<h1>{len(ranks)} case{'s' * (len(ranks) != 1)}</h1>"
        f"<p>{', '.join(f'{count} {what}' for count, what in counts if count)}. What to look at first comes first, "
        f'in the page and in each case. Slices are numbered from 0. All volumes: <a href="{SUMMARY}">{SUMMARY}</a></p>'
        f'<p class="notice">{escape(" ".join([*filter(None, notices), RESEARCH_NOTICE]))}</p>'
        + (f"<p>Page {links}</p>" if of > 1 else "")
    )


def _without_answers(records: list[dict[str, Any]]) -> str:
    """A line for each case that has no answer at all."""
    rows = "".join(
        f'<tr class="failed"><td>{escape(one["case"])}</td><td>{escape(one["reason"])}</td></tr>' for one in records
    )
    return f"<table><caption>Not segmented</caption>{rows}</table>\n" if records else ""


def _case(folder: Path, record: dict[str, Any], usual: Usual) -> str:
    """A case: what is missing and should not be, pictures of what was found, and what else is not there."""
    judged = [(place, finding, *attention(finding, usual)) for place, finding in enumerate(record["findings"])]
    judged.sort(key=lambda one: (-one[2], one[0]))
    look = "failed" if record["state"] != "done" else "look" if any(score for _, _, score, _ in judged) else ""
    case_id, place_of = escape(record["case"]), folder / "cases" / record["case"] / THUMBNAILS
    facts = ", ".join(filter(None, [record["modality"], f"{sum(record['seconds'].values()):.0f} s"]))
    links = " ".join(f'<a href="cases/{case_id}/{file}">{file.split(".")[0]}</a>' for file in (PREVIEW, REPORT))
    absent = [(finding, why) for _, finding, _, why in judged if finding["state"] != "found"]
    missing = "".join(
        f'<p class="why">{_absent(finding)}: {escape("; ".join(why))}</p>' for finding, why in absent if why
    )
    others = ", ".join(_absent(finding) for finding, why in absent if not why)
    notices = "".join(f"<p>{escape(notice)}</p>" for notice in record["notices"])
    tiles = "".join(
        _tile(place_of / f"{place}.jpg", finding, why, is_2d=record.get("is_2d", False))
        for place, finding, _, why in judged if finding["state"] == "found"
    )  # fmt: skip
    return (
        f'<section class="case {look}"><h2>{case_id}<small>{escape(facts)} {links}</small></h2>{missing}'
        f'<div class="tiles">{tiles}</div><div class="facts">{f"<p>{others}</p>" if others else ""}{notices}</div>'
        "</section>\n"
    )


def _absent(finding: dict[str, Any]) -> str:
    presence = "" if finding["presence"] is None else f" (presence {finding['presence']:.2f})"
    return f"<strong>{escape(finding['phrase'])}</strong> {finding['state'].replace('_', ' ')}{presence}"


def _tile(picture: Path, finding: dict[str, Any], why: list[str], *, is_2d: bool) -> str:
    phrase, shown = escape(finding["phrase"]), ""
    if picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        shown = f'<img alt="{phrase}" src="data:image/jpeg;base64,{data}">'
    sure = [f"{name} {finding[name]:.2f}" for name in ("presence", "confidence") if finding[name] is not None]
    size = f"{finding['voxels']:,} px" if is_2d else _millilitres(finding["volume_ml"])
    reasons = "".join(f'<div class="why">{escape(reason)}</div>' for reason in why)
    return (
        f'<div class="tile{" look" * bool(why)}">{shown}<div class="text">'
        f'<div class="name">{phrase}<span>{size}</span></div>'
        f'<div class="facts">{", ".join(sure)}</div>{reasons}</div></div>'
    )


def _millilitres(volume: float) -> str:
    """Three figures: more would promise what a mask cannot hold."""
    return f"{volume:.0f} ml" if volume >= 100 else f"{volume:.1f} ml" if volume >= 1 else f"{volume:.2g} ml"
