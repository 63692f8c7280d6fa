"""Terminal pairs, and the lists of them that a merchant imports: CSV or JSON, with all that is wrong told at once."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from softpos.errors import InvalidRequestError

MAX_PAIRS = 1000
"""In one import."""

MAX_UNKNOWN = 10
"""Of so many unknown members of one object the caller is told: an answer has its limits, too."""

COLUMNS = ("point_of_sale", "softpos_tid", "mpos_tid")

_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,32}")


@dataclass(frozen=True, slots=True)
class TerminalPair:
    """A point of sale with a SoftPOS TID, an MPOS TID, or both."""

    point_of_sale: str
    softpos_tid: str | None
    mpos_tid: str | None

    @property
    def terminal_ids(self) -> tuple[str, ...]:
        """One or two TIDs, the SoftPOS before the MPOS."""
        return tuple(tid for tid in (self.softpos_tid, self.mpos_tid) if tid)

    @property
    def name(self) -> str:
        """What the pair goes by in the pool, which is sorted by it: `<point of sale>#<first TID>`."""
        return f"{self.point_of_sale}#{self.terminal_ids[0]}"


@dataclass(frozen=True, slots=True)
class PairList:
    """Pairs by their place in the import, such as `line 2`, and what is wrong, by place."""

    pairs: dict[str, TerminalPair] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def is_identifier(value: Any) -> bool:
    """Whether it may be a TID or the id of a point of sale: 1 to 32 of letters, digits, dot, dash and underscore."""
    return isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None


def from_csv(text: str) -> PairList:
    """Pairs out of CSV: a line that names the COLUMNS, in any order, then a pair a line; commas or semicolons.

    Raises InvalidRequestError when no such list can be made out.
    """
    text = text.removeprefix("\ufeff")
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    # Not splitlines(), which splits at more than CSV's line breaks, and within quotes.
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip().lower() for name in next(rows, [])]
        if not {"point_of_sale"} < set(columns) <= set(COLUMNS) or len(columns) != len(set(columns)):
            raise InvalidRequestError({"line 1": f"does not name the columns {', '.join(COLUMNS)}, and no other"})
        return _listed(_csv_rows(rows, columns))
    except csv.Error:
        raise InvalidRequestError({f"line {rows.line_num}": "is not CSV"}) from None


def from_json(members: Mapping[str, Any]) -> PairList:
    """Pairs out of `{"pairs": [{"point_of_sale", "softpos_tid", "mpos_tid"}, …]}`, one TID null or absent.

    Raises InvalidRequestError when no such list can be made out.
    """
    unknown = {name[:40]: "is not known here" for name in sorted(set(members) - {"pairs"})[:MAX_UNKNOWN]}
    pairs = members.get("pairs")
    if not isinstance(pairs, list):
        unknown["pairs"] = "is not a list" if "pairs" in members else "is missing"
    if unknown or not isinstance(pairs, list):
        raise InvalidRequestError(unknown)
    return _listed((f"pairs[{at}]", each) for at, each in enumerate(pairs))


def _csv_rows(rows: Any, columns: list[str]) -> Iterator[tuple[str, Any]]:
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        cells = [cell.strip() or None for cell in row]
        # A row of another length is none; one without its last, empty cells is what spreadsheets write.
        padded = cells + [None] * (len(columns) - len(cells))
        yield f"line {rows.line_num}", dict(zip(columns, padded, strict=True)) if len(row) <= len(columns) else row


def _listed(rows: Iterable[tuple[str, Any]]) -> PairList:
    listed = PairList()
    seen: dict[str, str] = {}
    count = 0
    for place, row in rows:
        count += 1
        if count > MAX_PAIRS:
            raise InvalidRequestError({"body": f"holds more than {MAX_PAIRS} pairs"})
        problems = dict(_problems(row))
        if not problems:
            pair = TerminalPair(row["point_of_sale"], row.get("softpos_tid"), row.get("mpos_tid"))
            problems = {
                name: f"is in {seen[tid]}, too"
                for name, tid in (("softpos_tid", pair.softpos_tid), ("mpos_tid", pair.mpos_tid))
                if tid in seen
            }
            seen |= dict.fromkeys(pair.terminal_ids, place)
            listed.pairs[place] = pair
        listed.problems.update({f"{place}, {name}" if name else place: reason for name, reason in problems.items()})
    if not count:
        raise InvalidRequestError({"body": "holds no pair"})
    return listed


def _problems(row: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(row, dict):
        yield "", "is not a pair"
        return
    for name in sorted(set(row) - set(COLUMNS))[:MAX_UNKNOWN]:
        yield name[:40], "is not known here"
    for name in COLUMNS:
        value = row.get(name)
        if value is None:
            if name == "point_of_sale":
                yield name, "is missing"
        elif not is_identifier(value):
            yield name, "is not 1 to 32 of letters, digits, dot, dash and underscore"
    if row.get("softpos_tid") is None and row.get("mpos_tid") is None:
        yield "", "has neither a softpos_tid nor an mpos_tid"
    elif row.get("softpos_tid") == row.get("mpos_tid"):
        yield "mpos_tid", "is the softpos_tid"
