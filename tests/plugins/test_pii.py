"""Personal data is found where it stands, and what must be answered is kept."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.contract import OptionsError
from plugins.personal_data import CHUNK, personal_data
from plugins.pii import Pii
from service.plugin_fields import checked


def redact(text: str, **options: Any) -> str:
    return Pii(checked(Pii.Settings, options)).redact(text)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Nothing is in here.", "Nothing is in here."),
        ("Write to ada.l+x@mail.example.co.uk, please.", "Write to [e-mail address], please."),
        ("Call +49 30 901820!", "Call [phone number]!"),
        ("IBAN GB82 WEST 1234 5698 7654 32.", "IBAN [IBAN]."),
        ("GB82WEST12345698765432", "[IBAN]"),
        ("Card 4111 1111 1111 1111 or 5500-0000-0000-0004", "Card [card number] or [card number]"),
        ("4111 1111 1111 1112 is no card.", "4111 1111 1111 1112 is no card."),
        ("SSN 536-90-4399.", "SSN [social security number]."),
        ("Ticket 000-12-3456 of 2026-11-24, 10:30.", "Ticket 000-12-3456 of 2026-11-24, 10:30."),
        ("a@b and @home and x@y.z", "a@b and @home and x@y.z"),
        ("Mél: ada@exämple.com — ok", "Mél: [e-mail address] — ok"),
    ],
)
def test_what_passes_the_check_of_its_kind_is_taken_out(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_numbers_without_a_prefix_are_of_the_country_that_is_named() -> None:
    assert redact("Call 617-253-5000.") == "Call 617-253-5000."
    assert redact("Call 617-253-5000.", region="US") == "Call [phone number]."
    with pytest.raises(OptionsError, match="two capital letters"):
        redact("", region="USA")


def test_what_is_to_be_kept_stays() -> None:
    text = "help@example.com, ada@example.com, eve@example.org"
    assert (
        redact(text, keep=["@EXAMPLE.com"]) == "help@example.com, ada@example.com, [e-mail address]"
    )
    assert redact(text, keep=["help@example.com", ""]).startswith("help@example.com, [e-mail")


@pytest.mark.parametrize("shift", [0, 1, 7, 15, 16, 17, 40])
def test_what_lies_across_two_parts_of_a_long_text_is_found_once(shift: int) -> None:
    card = "4111 1111 1111 1111"
    text = "x " * ((CHUNK - shift) // 2) + card + " y" * CHUNK
    assert [found.value for found in personal_data(text)] == [card]


def test_a_second_redaction_changes_nothing() -> None:
    once = redact("ada@example.com, +49 30 901820, 4111 1111 1111 1111")
    assert redact(once) == once
