"""The lists of terminal pairs that a merchant imports: what is taken, and what is told of the rest."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softpos import pairs
from softpos.errors import InvalidRequestError
from softpos.pairs import MAX_PAIRS, PairList, TerminalPair

BOTH = TerminalPair("100", "30000001", "40000001")
SOFTPOS = TerminalPair("100", "30000002", None)
MPOS = TerminalPair("200", None, "40000003")

HEADER = "point_of_sale,softpos_tid,mpos_tid"
CSV = f"{HEADER}\n100,30000001,40000001\n100,30000002,\n200,,40000003\n"
JSON: dict[str, Any] = {
    "pairs": [
        {"point_of_sale": "100", "softpos_tid": "30000001", "mpos_tid": "40000001"},
        {"point_of_sale": "100", "softpos_tid": "30000002", "mpos_tid": None},
        {"point_of_sale": "200", "mpos_tid": "40000003"},
    ]
}

NO_IDENTIFIER = "is not 1 to 32 of letters, digits, dot, dash and underscore"
NO_HEADER = {"line 1": "does not name the columns point_of_sale, softpos_tid, mpos_tid, and no other"}


class TestAPair:
    @pytest.mark.parametrize(
        ("pair", "tids", "name"),
        [
            pytest.param(BOTH, ("30000001", "40000001"), "100#30000001", id="both-and-the-softpos-first"),
            pytest.param(SOFTPOS, ("30000002",), "100#30000002", id="a-softpos"),
            pytest.param(MPOS, ("40000003",), "200#40000003", id="an-mpos"),
        ],
    )
    def test_it_has_one_terminal_or_two_and_the_first_ones_name(
        self, pair: TerminalPair, tids: tuple[str, ...], name: str
    ) -> None:
        assert pair.terminal_ids == tids
        assert pair.name == name

    @pytest.mark.parametrize("value", ["1", "a" * 32, "A.b-c_9", "00012345", "-", "."])
    def test_an_identifier_is_any_of_these(self, value: str) -> None:
        assert pairs.is_identifier(value)

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param("", id="empty"),
            pytest.param("a" * 33, id="33-characters"),
            pytest.param("a b", id="space"),
            pytest.param("30000001\n", id="newline-at-the-end"),
            pytest.param("a#b", id="what-names-are-made-with"),
            pytest.param("a/b", id="slash"),
            pytest.param("é", id="letter-beyond-ascii"),
            pytest.param("\u0663", id="digit-beyond-ascii"),
            pytest.param("\u212a", id="kelvin-sign"),
            pytest.param(30000001, id="a-number"),
            pytest.param(b"30000001", id="bytes"),
            pytest.param(None, id="none"),
        ],
    )
    def test_and_none_of_those(self, value: Any) -> None:
        assert not pairs.is_identifier(value)


class TestCsv:
    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(CSV, id="plain"),
            pytest.param(CSV.removesuffix("\n"), id="no-newline-at-the-end"),
            pytest.param("\ufeff" + CSV, id="byte-order-mark"),
            pytest.param(CSV.replace("\n", "\r\n"), id="crlf"),
            pytest.param(CSV.replace("\n", "\r"), id="cr"),
            pytest.param(CSV.replace(",", ";"), id="semicolons"),
            pytest.param("\ufeff" + CSV.replace(",", ";").replace("\n", "\r\n"), id="as-excel-in-italy-writes-it"),
            pytest.param(CSV.replace("100,30000002,\n", "100,30000002\n"), id="last-empty-cell-missing"),
            pytest.param(CSV.replace(HEADER, HEADER.upper()), id="upper-case-header"),
            pytest.param(CSV.replace(HEADER, "Point_Of_Sale , softpos_tid, MPOS_tid"), id="spaces-in-the-header"),
            pytest.param(CSV.replace(",", " ,\t"), id="spaces-around-cells"),
            pytest.param(CSV.replace("40000001", '"40000001"'), id="a-quoted-cell"),
            pytest.param(CSV.replace("100,30000002,", '"100","30000002",""'), id="all-cells-quoted"),
            pytest.param(CSV.replace(HEADER, '"point_of_sale","softpos_tid","mpos_tid"'), id="quoted-header"),
        ],
    )
    def test_every_spelling_of_a_list_is_the_list(self, text: str) -> None:
        assert pairs.from_csv(text) == PairList({"line 2": BOTH, "line 3": SOFTPOS, "line 4": MPOS})

    @pytest.mark.parametrize(
        ("text", "taken"),
        [
            pytest.param(
                "mpos_tid,point_of_sale,softpos_tid\n40000001,100,30000001\n,100,30000002\n",
                {"line 2": BOTH, "line 3": SOFTPOS},
                id="columns-in-another-order",
            ),
            pytest.param("softpos_tid,point_of_sale\n30000002,100\n", {"line 2": SOFTPOS}, id="no-mpos-column"),
            pytest.param("point_of_sale;mpos_tid\n200;40000003\n", {"line 2": MPOS}, id="no-softpos-column"),
            pytest.param(
                f"{HEADER}\n\n100,30000002,\n  \n,,\n200,,40000003\n\n\n",
                {"line 3": SOFTPOS, "line 6": MPOS},
                id="blank-lines-are-counted-and-no-more",
            ),
            pytest.param(f"{HEADER}\n00100,0030,0040\n", {"line 2": TerminalPair("00100", "0030", "0040")}, id="zeros"),
        ],
    )
    def test_so_is_one_that_is_laid_out_otherwise(self, text: str, taken: dict[str, TerminalPair]) -> None:
        assert pairs.from_csv(text) == PairList(taken)

    @pytest.mark.parametrize(
        ("line", "problems"),
        [
            pytest.param("100,,", {"line 2": "has neither a softpos_tid nor an mpos_tid"}, id="no-tid"),
            pytest.param("100", {"line 2": "has neither a softpos_tid nor an mpos_tid"}, id="a-point-of-sale-alone"),
            pytest.param(",30000001,", {"line 2, point_of_sale": "is missing"}, id="no-point-of-sale"),
            pytest.param("100,3,3", {"line 2, mpos_tid": "is the softpos_tid"}, id="one-tid-twice"),
            pytest.param("100,30000001,40000001,x", {"line 2": "is not a pair"}, id="a-cell-too-many"),
            pytest.param("100,30000001,40000001,", {"line 2": "is not a pair"}, id="an-empty-cell-too-many"),
            pytest.param("1 0,3,4", {"line 2, point_of_sale": NO_IDENTIFIER}, id="point-of-sale-with-a-space"),
            pytest.param(f"{'1' * 33},3,4", {"line 2, point_of_sale": NO_IDENTIFIER}, id="point-of-sale-too-long"),
            pytest.param("1#0,3,4", {"line 2, point_of_sale": NO_IDENTIFIER}, id="point-of-sale-with-a-hash"),
            pytest.param("100,3é,4", {"line 2, softpos_tid": NO_IDENTIFIER}, id="softpos-beyond-ascii"),
            pytest.param("100,3,4/4", {"line 2, mpos_tid": NO_IDENTIFIER}, id="mpos-with-a-slash"),
            pytest.param("100,3.0E+07,4", {"line 2, softpos_tid": NO_IDENTIFIER}, id="as-spreadsheets-spoil-it"),
            pytest.param('100, "3",4', {"line 2, softpos_tid": NO_IDENTIFIER}, id="space-before-a-quote"),
            pytest.param("100,3\x000,4", {"line 2, softpos_tid": NO_IDENTIFIER}, id="nul"),
            pytest.param("100,3\x0b0,4", {"line 2, softpos_tid": NO_IDENTIFIER}, id="vertical-tab-within-a-cell"),
            pytest.param("100,3\u20280,4", {"line 2, softpos_tid": NO_IDENTIFIER}, id="line-separator-within-a-cell"),
            pytest.param(
                ",3 ,\u0663", {"line 2, point_of_sale": "is missing", "line 2, mpos_tid": NO_IDENTIFIER}, id="two"
            ),
        ],
    )
    def test_what_is_wrong_with_a_line_is_told_with_its_place(self, line: str, problems: dict[str, str]) -> None:
        assert pairs.from_csv(f"{HEADER}\n{line}\n") == PairList({}, problems)

    def test_a_line_break_within_a_cell_is_part_of_it(self) -> None:
        """Left out, it would make one TID of two."""
        listed = pairs.from_csv(f'{HEADER}\n100,"3000\n0001",\n200,,40000003\n')
        assert listed.pairs == {"line 4": MPOS}
        assert listed.problems == {"line 3, softpos_tid": NO_IDENTIFIER}

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="nothing"),
            pytest.param("\ufeff", id="a-byte-order-mark-alone"),
            pytest.param("\n" + CSV, id="blank-line-in-front"),
            pytest.param("100,30000001,40000001\n", id="no-header"),
            pytest.param("point_of_sale\n100\n", id="no-tid-column"),
            pytest.param("softpos_tid,mpos_tid\n3,4\n", id="no-point-of-sale-column"),
            pytest.param("point_of_sale,softpos_tid,softpos_tid\n100,3,4\n", id="one-column-twice"),
            pytest.param("point_of_sale,softpos_tid,note\n100,3,4\n", id="a-column-of-others"),
            pytest.param("point_of_sale,softpos_tid,mpos_tid,\n100,3,4,\n", id="an-empty-column"),
            pytest.param(CSV.replace(",", "\t"), id="tabs"),
            pytest.param(CSV.replace(",", "|"), id="bars"),
            pytest.param(json.dumps(JSON), id="json"),
        ],
    )
    def test_without_a_header_of_ours_it_is_no_list(self, text: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            pairs.from_csv(text)
        assert caught.value.members == NO_HEADER

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            pytest.param(f'{HEADER}\n100,"3"0,4\n', 2, id="more-after-a-quote"),
            pytest.param(f'{HEADER}\n100,3,4\n200,"3,4\n', 3, id="a-quote-that-does-not-end"),
            pytest.param(f"{HEADER}\n100,{'3' * 200_000},4\n", 2, id="a-cell-beyond-all-measure"),
        ],
    )
    def test_what_is_not_csv_is_told_by_line(self, text: str, line: int) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            pairs.from_csv(text)
        assert caught.value.members == {f"line {line}": "is not CSV"}

    @pytest.mark.parametrize("text", [HEADER, f"{HEADER}\n\n ,,\n"], ids=["header-alone", "blank-lines"])
    def test_a_list_of_nothing_is_none(self, text: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            pairs.from_csv(text)
        assert caught.value.members == {"body": "holds no pair"}


class TestJson:
    def test_a_list_is_taken_with_tids_null_or_absent(self) -> None:
        assert pairs.from_json(JSON) == PairList({"pairs[0]": BOTH, "pairs[1]": SOFTPOS, "pairs[2]": MPOS})

    @pytest.mark.parametrize(
        ("row", "problems"),
        [
            pytest.param(None, {"": "is not a pair"}, id="null"),
            pytest.param("30000001", {"": "is not a pair"}, id="a-string"),
            pytest.param(["100", "3", "4"], {"": "is not a pair"}, id="a-list"),
            pytest.param(
                {}, {"point_of_sale": "is missing", "": "has neither a softpos_tid nor an mpos_tid"}, id="empty"
            ),
            pytest.param({"point_of_sale": None, "mpos_tid": "4"}, {"point_of_sale": "is missing"}, id="null-place"),
            pytest.param({"point_of_sale": "", "mpos_tid": "4"}, {"point_of_sale": NO_IDENTIFIER}, id="empty-place"),
            pytest.param({"point_of_sale": 100, "mpos_tid": "4"}, {"point_of_sale": NO_IDENTIFIER}, id="place-number"),
            pytest.param({"point_of_sale": "1", "mpos_tid": 4}, {"mpos_tid": NO_IDENTIFIER}, id="tid-a-number"),
            pytest.param({"point_of_sale": "1", "mpos_tid": ["4"]}, {"mpos_tid": NO_IDENTIFIER}, id="tid-a-list"),
            pytest.param({"point_of_sale": "1", "mpos_tid": False}, {"mpos_tid": NO_IDENTIFIER}, id="tid-false"),
            pytest.param(
                {"point_of_sale": "1", "softpos_tid": "", "mpos_tid": "4"},
                {"softpos_tid": NO_IDENTIFIER},
                id="tid-empty",
            ),
            pytest.param(
                {"point_of_sale": "1", "softpos_tid": " 3 "}, {"softpos_tid": NO_IDENTIFIER}, id="tid-with-spaces"
            ),
            pytest.param(
                {"point_of_sale": "1", "softpos_tid": "3", "mpos_tid": "3"},
                {"mpos_tid": "is the softpos_tid"},
                id="one-tid-twice",
            ),
            pytest.param(
                {"point_of_sale": "1", "tid": "3"},
                {"tid": "is not known here", "": "has neither a softpos_tid nor an mpos_tid"},
                id="a-member-of-others",
            ),
            pytest.param(
                {"point_of_sale": "1", "mpos_tid": "4", "x" * 500: "3"},
                {"x" * 40: "is not known here"},
                id="a-long-name-is-cut",
            ),
        ],
    )
    def test_what_is_wrong_with_a_pair_is_told_with_its_place(self, row: Any, problems: dict[str, str]) -> None:
        listed = pairs.from_json({"pairs": [JSON["pairs"][0], row]})
        assert listed.pairs == {"pairs[0]": BOTH}
        assert listed.problems == {
            f"pairs[1], {name}" if name else "pairs[1]": reason for name, reason in problems.items()
        }

    @pytest.mark.parametrize(
        ("body", "members"),
        [
            pytest.param({}, {"pairs": "is missing"}, id="empty"),
            pytest.param({"pairs": None}, {"pairs": "is not a list"}, id="null"),
            pytest.param({"pairs": JSON["pairs"][0]}, {"pairs": "is not a list"}, id="one-pair"),
            pytest.param({"pairs": []}, {"body": "holds no pair"}, id="no-pair"),
            pytest.param({**JSON, "replace": True}, {"replace": "is not known here"}, id="a-member-of-others"),
            pytest.param(
                {"b" * 500: 1, "a": 2},
                {"a": "is not known here", "b" * 40: "is not known here", "pairs": "is missing"},
                id="all-of-it-at-once",
            ),
        ],
    )
    def test_what_holds_no_list_is_refused(self, body: dict[str, Any], members: dict[str, str]) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            pairs.from_json(body)
        assert caught.value.members == members


class TestTheWholeList:
    def test_all_problems_are_told_at_once_and_the_good_pairs_kept(self) -> None:
        """The registry has more to say of the good ones: that their TIDs are in the pool already."""
        listed = pairs.from_csv(f"{HEADER}\n100,,\n100,30000002,\n,3 3,\n200,,40000003\n1,2,3,4\n300,5,5\n")
        assert listed == PairList(
            {"line 3": SOFTPOS, "line 5": MPOS},
            {
                "line 2": "has neither a softpos_tid nor an mpos_tid",
                "line 4, point_of_sale": "is missing",
                "line 4, softpos_tid": NO_IDENTIFIER,
                "line 6": "is not a pair",
                "line 7, mpos_tid": "is the softpos_tid",
            },
        )

    @pytest.mark.parametrize(
        ("rows", "problems"),
        [
            pytest.param(["100,3,4", "100,3,4"], {"softpos_tid": 2, "mpos_tid": 2}, id="the-same-pair"),
            pytest.param(["100,3,4", "200,3,5"], {"softpos_tid": 2}, id="the-softpos-at-another-point-of-sale"),
            pytest.param(["100,3,4", "100,5,4"], {"mpos_tid": 2}, id="the-mpos"),
            pytest.param(["100,3,4", "100,4,5"], {"softpos_tid": 2}, id="an-mpos-as-a-softpos"),
            pytest.param(["100,3,4", "100,,3"], {"mpos_tid": 2}, id="a-softpos-as-an-mpos"),
            pytest.param(["100,3,4", "100,5,6", "100,3,6"], {"softpos_tid": 2, "mpos_tid": 3}, id="of-two-others"),
        ],
    )
    def test_a_tid_that_comes_twice_is_told_where_it_comes_again(
        self, rows: list[str], problems: dict[str, int]
    ) -> None:
        again = len(rows) + 1
        assert pairs.from_csv("\n".join([HEADER, *rows])).problems == {
            f"line {again}, {name}": f"is in line {first}, too" for name, first in problems.items()
        }

    def test_tids_that_differ_in_case_are_two(self) -> None:
        assert not pairs.from_csv(f"{HEADER}\n100,a,\n100,A,\n").problems

    def test_one_tid_may_be_a_point_of_sale_as_well(self) -> None:
        assert not pairs.from_csv(f"{HEADER}\n100,200,\n200,100,\n").problems

    def test_so_many_pairs_and_no_more(self) -> None:
        most = [HEADER, *(f"100,{tid}," for tid in range(MAX_PAIRS))]
        assert len(pairs.from_csv("\n".join([*most, "", ""])).pairs) == MAX_PAIRS
        for one_more in ("100,one-more,", "nothing to be taken either"):
            with pytest.raises(InvalidRequestError) as caught:
                pairs.from_csv("\n".join([*most, one_more]))
            assert caught.value.members == {"body": "holds more than 1000 pairs"}
        with pytest.raises(InvalidRequestError, match="holds more than 1000 pairs"):
            pairs.from_json({"pairs": [None] * (MAX_PAIRS + 1)})

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("{}", id="no-list"),
            pytest.param("point_of_sale,softpos_tid,{}\n1,2,3", id="header"),
            pytest.param(HEADER + "\n{},3,4\n", id="point-of-sale"),
            pytest.param(HEADER + "\n100,{},{}\n", id="tids"),
            pytest.param(HEADER + "\n100,3,4,{}\n", id="cell-too-many"),
            pytest.param(HEADER + '\n100,"{}"{},4\n', id="not-csv"),
            pytest.param(HEADER + '\n100,"{}', id="not-csv-to-the-end"),
        ],
    )
    @pytest.mark.parametrize("value", ["4506 7712 8890 1234", "rossi@example.com", "<script>"])
    def test_no_message_about_csv_repeats_what_it_choked_on(self, text: str, value: str) -> None:
        """What is pasted into the wrong form may be anything."""
        assert value not in told(lambda: pairs.from_csv(text.replace("{}", value)))

    @pytest.mark.parametrize("value", ["4506 7712 8890 1234", 450677128890, ["4506-7712"], {"iban": "4506"}])
    @pytest.mark.parametrize(
        "body",
        [
            pytest.param({"pairs": "{}"}, id="instead-of-a-list"),
            pytest.param({"pairs": ["{}"]}, id="instead-of-a-pair"),
            pytest.param({"pairs": [{"point_of_sale": "{}", "mpos_tid": "{}"}]}, id="in-a-pair"),
            pytest.param({"pairs": [{"point_of_sale": "1", "mpos_tid": "2", "note": "{}"}]}, id="beside-a-pair"),
            pytest.param({"pairs": [], "note": "{}"}, id="beside-the-list"),
        ],
    )
    def test_no_message_about_json_repeats_what_it_choked_on(self, body: dict[str, Any], value: Any) -> None:
        filled = json.loads(json.dumps(body).replace('"{}"', json.dumps(value)))
        assert "4506" not in told(lambda: pairs.from_json(filled))


def told(parse: Callable[[], PairList]) -> str:
    """All that is told of a list with something wrong."""
    try:
        problems = parse().problems
    except InvalidRequestError as error:
        problems = {**error.members, "": str(error)}
    assert problems
    return repr(problems)


IDENTIFIERS = st.text("ABCXYZabcxyz0189._-", min_size=1, max_size=32)


@st.composite
def lists_of_pairs(draw: st.DrawFn) -> list[TerminalPair]:
    """Pairs that have no TID in common."""
    tids = draw(st.lists(IDENTIFIERS, min_size=1, max_size=12, unique=True))
    drawn = []
    while tids:
        kind = draw(st.sampled_from(["both", "softpos", "mpos"])) if len(tids) > 1 else "softpos"
        softpos = None if kind == "mpos" else tids.pop()
        mpos = None if kind == "softpos" else tids.pop()
        drawn.append(TerminalPair(draw(IDENTIFIERS), softpos, mpos))
    return drawn


@given(expected=lists_of_pairs(), data=st.data())
def test_whatever_pairs_there_are_both_formats_carry_them(expected: list[TerminalPair], data: st.DataObject) -> None:
    columns = data.draw(st.permutations(pairs.COLUMNS))
    text = io.StringIO("\ufeff" * data.draw(st.integers(0, 1)), newline="")
    text.seek(0, io.SEEK_END)
    writer = csv.writer(
        text,
        delimiter=data.draw(st.sampled_from(",;")),
        quoting=data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        lineterminator=data.draw(st.sampled_from(["\n", "\r\n", "\n\n", "\r"])),
    )
    writer.writerow(columns)
    writer.writerows([getattr(pair, name) for name in columns] for pair in expected)
    listed = pairs.from_csv(text.getvalue())
    assert (list(listed.pairs.values()), listed.problems) == (expected, {})

    members = [
        {name: getattr(pair, name) for name in columns if getattr(pair, name) or data.draw(st.booleans())}
        for pair in expected
    ]
    listed = pairs.from_json(json.loads(json.dumps({"pairs": members})))
    assert (list(listed.pairs.values()), listed.problems) == (expected, {})
