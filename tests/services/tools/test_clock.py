"""The clock: the day and the time, where the model asks for them."""

import re
from datetime import UTC, datetime

import pytest

from services.tools.clock import ASKS_FOR_TIME, create_clock

NOON = datetime(2027, 1, 1, 12, 30, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ({}, "Friday 2027-01-01 13:30:05 Europe/Paris (UTC+0100, week 53)"),
        ({"timezone": "UTC"}, "Friday 2027-01-01 12:30:05 UTC (UTC+0000, week 53)"),
        ({"timezone": "America/New_York"}, "Friday 2027-01-01 07:30:05 America/New_York (UTC-0500, week 53)"),
        ({"timezone": "Pacific/Kiritimati"}, "Saturday 2027-01-02 02:30:05 Pacific/Kiritimati (UTC+1400, week 53)"),
        ({"timezone": "Asia/Kolkata"}, "Friday 2027-01-01 18:00:05 Asia/Kolkata (UTC+0530, week 53)"),
    ],
)
async def test_the_time_is_told_for_the_zone_or_for_the_servers_own(zone, said):
    assert await create_clock("Europe/Paris", lambda: NOON).ainvoke(zone) == said


async def test_summer_time_is_known():
    july = datetime(2026, 7, 14, 22, 0, tzinfo=UTC)
    said = await create_clock("Europe/Paris", lambda: july).ainvoke({})
    assert said == "Wednesday 2026-07-15 00:00:00 Europe/Paris (UTC+0200, week 29)"


@pytest.mark.parametrize(
    "zone",
    ["Paris", "Mars/Olympus", "", ".", "..", "Europe", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 5000],
)
async def test_an_unknown_zone_is_told_to_the_model(zone):
    said = await create_clock("UTC", lambda: NOON).ainvoke({"timezone": zone})
    assert said == f"unknown time zone {zone[:60]!r}; one is called `Europe/Paris`"


async def test_the_time_is_now_unless_a_test_says_otherwise():
    before = datetime.now(UTC).replace(microsecond=0)
    _, day, time_of_day, *_ = (await create_clock("UTC").ainvoke({})).split()
    assert before <= datetime.fromisoformat(f"{day}T{time_of_day}+00:00") <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("question", "asks"),
    [
        ("Quelle heure est-il ?", True),
        ("On est quel jour aujourd’hui ?", True),
        ("What's today's date?", True),
        ("Combien de semaines avant Noël ?", True),
        ("Raconte une histoire", False),
        ("Un rendez-vous galant", False),
        ("a candidate for the job", False),
    ],
)
def test_small_models_are_offered_it_for_questions_about_time_alone(question, asks):
    assert (re.search(ASKS_FOR_TIME, question) is not None) == asks
