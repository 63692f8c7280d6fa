"""Who the operator is, by verified claims alone, and which spellings of an e-mail are one operator."""

import sys
import unicodedata
from collections import defaultdict
from typing import Any

import pytest

from softpos import operators
from softpos.errors import OperatorUnknownError, PointOfSaleUnknownError

EMAIL = "mario.rossi@example.com"
CLAIMS = {"sub": "3f2a8c1e", "email": EMAIL, "email_verified": "true", "token_use": "id"}


class TestTheOperator:
    @pytest.mark.parametrize(
        "email",
        [
            pytest.param(EMAIL, id="plain"),
            pytest.param("Mario.Rossi@Example.com", id="capitals-are-kept"),
            pytest.param("josé@esempio.it", id="beyond-ascii"),
            pytest.param("a@b", id="shortest"),
            pytest.param("a" * 242 + "@example.com", id="254-characters"),
        ],
    )
    def test_the_e_mail_is_the_tokens_to_the_letter(self, email: str) -> None:
        assert operators.email_of({**CLAIMS, "email": email}) == email

    @pytest.mark.parametrize(
        "email",
        [
            pytest.param({}, id="missing"),
            pytest.param({"email": None}, id="null"),
            pytest.param({"email": ""}, id="empty"),
            pytest.param({"email": 7}, id="a-number"),
            pytest.param({"email": [EMAIL]}, id="a-list"),
            pytest.param({"email": EMAIL.encode()}, id="bytes"),
            pytest.param({"email": "mario.rossi"}, id="no-at"),
            pytest.param({"email": "@example.com"}, id="nothing-before-the-at"),
            pytest.param({"email": "mario.rossi@"}, id="nothing-after-the-at"),
            pytest.param({"email": "a" * 243 + "@example.com"}, id="255-characters"),
            pytest.param({"email": "Mario Rossi <mario@example.com>"}, id="a-name-and-an-e-mail"),
            pytest.param({"email": "\u212aarl@example.com"}, id="kelvin-sign"),
        ],
    )
    def test_a_token_without_an_e_mail_is_nobodys(self, email: dict[str, Any]) -> None:
        claims = {name: value for name, value in CLAIMS.items() if name != "email"}
        with pytest.raises(OperatorUnknownError, match="carries no e-mail") as caught:
            operators.email_of({**claims, **email})
        assert "ID token" in caught.value.remedy

    @pytest.mark.parametrize(
        "verified", ["false", "False", "FALSE", False, None, "", 0, 1, "1", "yes", "true ", ["true"], {}], ids=repr
    )
    def test_an_e_mail_that_is_not_said_to_be_verified_is_nobodys(self, verified: Any) -> None:
        """API Gateway hands claims over as strings; other authorizers keep the JSON's boolean."""
        with pytest.raises(OperatorUnknownError, match="is not verified"):
            operators.email_of({**CLAIMS, "email_verified": verified})

    @pytest.mark.parametrize("verified", [{}, {"email_verified": "true"}, {"email_verified": True}], ids=repr)
    def test_an_identity_provider_need_not_say_that_it_verified(self, verified: dict[str, Any]) -> None:
        claims = {name: value for name, value in CLAIMS.items() if name != "email_verified"}
        assert operators.email_of({**claims, **verified}) == EMAIL

    def test_no_other_claim_stands_in_for_the_e_mail(self) -> None:
        claims = dict.fromkeys(("sub", "username", "cognito:username", "preferred_username", "Email"), EMAIL)
        with pytest.raises(OperatorUnknownError):
            operators.email_of({**claims, "email_verified": "true"})

    def test_no_error_repeats_the_e_mail(self) -> None:
        for claims in ({"email": "not an e-mail of ours"}, {**CLAIMS, "email_verified": "false"}):
            with pytest.raises(OperatorUnknownError) as caught:
                operators.email_of(claims)
            assert str(claims["email"]) not in f"{caught.value} {caught.value.remedy}"


class TestWhatMayBeAnEMail:
    @pytest.mark.parametrize(
        "email",
        [
            pytest.param("mario+till.1@sub.example.com", id="what-mailboxes-have"),
            pytest.param("JOSÉ@ESEMPIO.IT", id="capital-with-its-own-small-letter"),
            pytest.param("weiß@example.com", id="small-sharp-s"),
            pytest.param("\u0131l@example.com", id="dotless-i"),
            pytest.param("ΣΟΦΟΣ@example.gr", id="greek-capitals"),
            pytest.param("σοφος@example.gr", id="final-sigma"),
            pytest.param("山田@example.jp", id="letters-without-case"),
            pytest.param("a@b@c", id="more-than-one-at"),
        ],
    )
    def test_these(self, email: str) -> None:
        assert operators.is_email(email)

    @pytest.mark.parametrize(
        "character",
        [
            pytest.param(" ", id="space"),
            pytest.param("\u00a0", id="no-break-space"),
            pytest.param("\u3000", id="ideographic-space"),
            pytest.param("\t", id="tab"),
            pytest.param("\n", id="newline"),
            pytest.param("\r", id="carriage-return"),
            pytest.param("\x00", id="nul"),
            pytest.param("\x1b", id="escape"),
            pytest.param("\x7f", id="delete"),
            pytest.param("\x85", id="next-line"),
            pytest.param("\u200b", id="zero-width-space"),
            pytest.param("\u00ad", id="soft-hyphen"),
            pytest.param("\u202e", id="right-to-left-override"),
            pytest.param("\ufeff", id="byte-order-mark"),
            pytest.param("\ud800", id="half-a-surrogate-pair"),
            pytest.param("\ue000", id="private-use"),
            pytest.param("\u212a", id="kelvin-sign-whose-small-letter-is-k"),
            pytest.param("\u0130", id="dotted-capital-i-whose-small-letter-is-i-and-a-dot"),
            pytest.param("\u212b", id="angstrom-sign-whose-small-letter-has-another-capital"),
            pytest.param("\u2126", id="ohm-sign-whose-small-letter-has-another-capital"),
            pytest.param("\u1e9e", id="capital-sharp-s-whose-small-letter-has-no-one-capital"),
            pytest.param("\u01c5", id="title-case-neither-small-nor-capital"),
        ],
    )
    @pytest.mark.parametrize(
        "email", ["{}mario@example.com", "ma{}rio@example.com", "mario@example.com{}"], ids=["first", "within", "last"]
    )
    def test_nothing_with_these(self, email: str, character: str) -> None:
        assert not operators.is_email(email.format(character))


class TestOneKeyForOneOperator:
    @pytest.mark.parametrize(
        ("email", "key"),
        [
            pytest.param("mario.rossi@example.com", "mario.rossi@example.com", id="folded-already"),
            pytest.param("Mario.ROSSI@Example.Com", "mario.rossi@example.com", id="ascii"),
            pytest.param("JOSÉ@ESEMPIO.IT", "josé@esempio.it", id="beyond-ascii"),
            pytest.param("WEIß@example.com", "weiß@example.com", id="sharp-s-stays-one"),
            pytest.param("strasse@example.com", "strasse@example.com", id="and-ss-stays-two"),
            pytest.param("ΣΟΦΟΣ@example.gr", "σοφοσ@example.gr", id="a-sigma-whatever-its-neighbours-are"),
            pytest.param("σοφος@example.gr", "σοφος@example.gr", id="a-final-sigma-is-another-letter"),
            pytest.param("jose\u0301@esempio.it", "jos\u00e9@esempio.it", id="decomposed"),
            pytest.param("JOSE\u0301@ESEMPIO.IT", "jos\u00e9@esempio.it", id="decomposed-in-capitals"),
            pytest.param("\u1f71@example.gr", "\u03ac@example.gr", id="an-older-code-of-the-same-letter"),
        ],
    )
    def test_it_is_the_e_mail_without_regard_to_case(self, email: str, key: str) -> None:
        assert operators.key(email) == key
        assert operators.is_email(email)

    def test_of_all_letters_none_is_taken_for_one_that_another_mailbox_has(self) -> None:
        """All of Unicode: nothing becomes ASCII, and a key stands for a small letter and its one capital at most.

        Letters with the same composed form are one letter, with several codes.
        """
        letters: dict[str, list[str]] = defaultdict(list)
        for letter in map(chr, range(sys.maxunicode + 1)):
            if operators.is_email(f"a@{letter}"):
                letters[operators.key(letter)].append(letter)
        assert sum(map(len, letters.values())) > 100_000
        for key, same in letters.items():
            assert {letter.isascii() for letter in same} == {key.isascii()}
            composed = {unicodedata.normalize("NFC", letter) for letter in same}
            assert composed <= {key, unicodedata.normalize("NFC", key.upper())}


class TestThePointOfSale:
    @pytest.mark.parametrize(
        ("value", "point_of_sale"),
        [
            pytest.param("00012345", "00012345", id="zeros-in-front-are-kept"),
            pytest.param(" 00012345\n", "00012345", id="what-is-around-it-is-not"),
            pytest.param("Milano-1", "Milano-1", id="case-is-kept"),
        ],
    )
    def test_it_is_what_the_claim_says(self, value: str, point_of_sale: str) -> None:
        assert operators.point_of_sale_of({"custom:shop": value, "shop": "other"}, "custom:shop") == point_of_sale

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param({}, id="missing"),
            pytest.param({"shop": None}, id="null"),
            pytest.param({"shop": ""}, id="empty"),
            pytest.param({"shop": " \t"}, id="blank"),
            pytest.param({"shop": 12345}, id="a-number"),
            pytest.param({"shop": ["00012345"]}, id="a-list"),
            pytest.param({"shop": "0001#2345"}, id="what-names-are-made-with"),
            pytest.param({"shop": "00012345,00054321"}, id="two"),
            pytest.param({"shop": "1" * 33}, id="33-characters"),
            pytest.param({"shop": "1" * 2048}, id="more-than-a-key-of-the-table-takes"),
        ],
    )
    def test_a_token_that_says_none_is_told_of(self, value: dict[str, Any]) -> None:
        with pytest.raises(PointOfSaleUnknownError, match="PointOfSaleClaim") as caught:
            operators.point_of_sale_of({**CLAIMS, **value}, "shop")
        assert caught.value.remedy

    def test_no_error_repeats_the_claim(self) -> None:
        with pytest.raises(PointOfSaleUnknownError) as caught:
            operators.point_of_sale_of({"shop": ["the shop"]}, "shop")
        assert "the shop" not in f"{caught.value} {caught.value.remedy}"
