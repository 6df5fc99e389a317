"""Pieces joined: no word lost, none doubled, times in the whole recording's time."""

from hypothesis import given
from hypothesis import strategies as st

from domain.audio import Segment
from domain.runs import Hop
from domain.transcripts import HeardPiece, join, rolling_prompt

WORDS = st.lists(st.text("abcdefghij", min_size=3, max_size=8), min_size=1, max_size=60)


def piece(ordinal: int, text: str, *, overlap_s: float = 0.0, seconds: float = 10.0, **more: object) -> HeardPiece:
    """The `ordinal`th of pieces of equal length; its segments are its words, unless told otherwise."""
    start_s = ordinal * seconds - overlap_s
    words = text.split()
    fields = {
        "language": "fr",
        "model": "whisper-1",
        "segments": tuple(Segment(start_s + place, start_s + place + 1, word) for place, word in enumerate(words)),
    }
    return HeardPiece(ordinal, start_s, start_s + seconds + overlap_s, overlap_s, text, **(fields | more))


def texts(segments: tuple[Segment, ...] | None) -> str:
    return " ".join(segment.text for segment in segments or ())


def test_pieces_cut_in_silence_are_put_after_each_other():
    whole = join([piece(0, "Bonjour à tous."), piece(1, "La réunion commence.")], duration_s=20)
    assert whole.text == "Bonjour à tous. La réunion commence." == texts(whole.segments)
    assert (whole.language, whole.model, whole.duration_s) == ("fr", "whisper-1", 20)


def test_words_that_two_pieces_hold_are_said_once():
    pieces = [
        piece(0, "nous avons voté le budget de la commune"),
        piece(1, "Budget de la commune, puis nous", overlap_s=2.5),
    ]
    whole = join(pieces, duration_s=20)
    assert whole.text == "nous avons voté le budget de la commune puis nous" == texts(whole.segments)


def test_a_word_that_the_cut_went_through_is_taken_from_who_heard_it_whole():
    pieces = [
        piece(0, "nous avons voté le budget de la comm"),
        piece(1, "et budget de la commune puis nous", overlap_s=2.5),
    ]
    whole = join(pieces, duration_s=20)
    assert whole.text == "nous avons voté le budget de la commune puis nous" == texts(whole.segments)


def test_where_the_two_agree_on_nothing_no_word_is_lost():
    pieces = [piece(0, "un deux trois"), piece(1, "quatre cinq six", overlap_s=2.5)]
    assert join(pieces, duration_s=20).text == "un deux trois quatre cinq six"


def test_words_said_twice_without_an_overlap_stay():
    pieces = [piece(0, "oui oui la commune"), piece(1, "la commune oui")]
    assert join(pieces, duration_s=20).text == "oui oui la commune la commune oui"


@given(words=WORDS, data=st.data())
def test_any_speech_cut_with_an_overlap_is_whole_again(words, data):
    """As long as no two words within reach of the seam are alike: then nobody could tell."""
    words = [f"{word}{place}" for place, word in enumerate(words)]
    at = data.draw(st.integers(0, len(words)))
    shared = data.draw(st.integers(2, 8))
    back = max(0, at - shared)
    pieces = [piece(0, " ".join(words[:at])), piece(1, " ".join(words[back:]), overlap_s=2.5)]
    whole = join(pieces, duration_s=20)
    if at - back >= 2 or at == back:
        assert whole.text == " ".join(words) == texts(whole.segments)


def test_most_of_the_seconds_say_the_language_and_the_model():
    pieces = [
        piece(0, "hello", language="en", model="whisper-1", seconds=4),
        piece(1, "bonjour", seconds=30, model="whisper-base"),
    ]
    whole = join(pieces, duration_s=34)
    assert (whole.language, whole.model) == ("fr", "whisper-base")


def test_silence_says_nothing_of_language_or_model():
    silence = piece(0, "", language=None, model=None, segments=(), seconds=500)
    whole = join([silence, piece(1, "bonjour")], duration_s=510)
    assert (whole.text, whole.language, whole.model) == ("bonjour", "fr", "whisper-1")
    assert join([silence], duration_s=500).segments == ()


def test_times_are_null_where_no_model_gave_any_and_whole_pieces_where_some_did():
    without = piece(1, "sans horaires", segments=None)
    assert join([piece(0, "rien", segments=None), without], duration_s=20).segments is None
    mixed = join([piece(0, "un"), without], duration_s=20).segments
    assert mixed is not None
    assert mixed[-1] == Segment(10.0, 20.0, "sans horaires")


def test_what_is_written_without_spaces_is_joined_without_where_it_meets():
    pieces = [piece(0, "你好", language="zh"), piece(1, "世界", language="zh"), piece(2, "hello"), piece(3, "there")]
    assert join(pieces, duration_s=40).text == "你好世界 hello there"


def test_characters_that_two_pieces_hold_are_said_once():
    second = piece(1, "讨论预算问题然后休息", overlap_s=2.5, language="zh")
    assert (
        join([piece(0, "今天我们讨论预算问题", language="zh"), second], duration_s=20).text
        == "今天我们讨论预算问题然后休息"
    )


def test_a_coincidence_far_from_the_seam_costs_no_sentence():
    before = "nous avons parlé hier de la situation des écoles pour que cela passe"
    after = "puis ensuite le conseil a voté le budget de la région nord"
    assert join([piece(0, before), piece(1, after, overlap_s=2.5)], duration_s=20).text == f"{before} {after}"


def test_punctuation_agrees_on_nothing():
    pieces = [piece(0, "il est venu ! – Oui dit Paul et nous"), piece(1, "Non Marie ! – alors", overlap_s=2.5)]
    assert join(pieces, duration_s=20).text == "il est venu ! – Oui dit Paul et nous Non Marie ! – alors"


def test_pieces_that_never_met_have_no_seam():
    pieces = [piece(0, "nous parlons de la région"), piece(2, "de la région arrivent", overlap_s=2.5)]
    assert join(pieces, duration_s=30).text == "nous parlons de la région de la région arrivent"


def test_each_piece_is_a_stretch_whoever_heard_it():
    whole = join([piece(0, "un deux", segments=None), piece(1, "trois", segments=None)], duration_s=20)
    assert whole.stretches == (Segment(0.0, 10.0, "un deux"), Segment(10.0, 20.0, "trois"))


def test_each_model_given_up_is_told_once():
    hop = Hop("whisper-1", "openai answered 503")
    whole = join([piece(0, "a", hops=(hop,)), piece(1, "b", hops=(hop,))], duration_s=20)
    assert whole.hops == (hop,)


def test_the_prompt_is_the_callers_words_and_the_end_of_what_was_said():
    assert rolling_prompt(None, "") is None
    assert rolling_prompt("Ada, Grace", "") == "Ada, Grace"
    said = " ".join(f"mot{number}" for number in range(500))
    prompt = rolling_prompt("Ada, Grace", said)
    assert prompt is not None
    assert prompt.split()[:2] == ["Ada,", "Grace"]
    assert prompt.split()[2:] == said.split()[-198:]
    assert len((rolling_prompt(said, "fin") or "").split()) <= 200
    assert len(rolling_prompt(None, "我们讨论预算" * 1000) or "") == 1_600


def test_spaces_between_phrases_of_a_language_without_any_are_no_characters_of_their_own():
    segments = (Segment(7.5, 9, "计划 安排"), Segment(9, 12, "这是最重要"))
    second = piece(1, "计划 安排 这是最重要", overlap_s=2.5, segments=segments)
    whole = join([piece(0, "我们讨论新的项目 计划安排"), second], duration_s=20)
    assert whole.text.replace(" ", "") == "我们讨论新的项目计划安排这是最重要"
    assert whole.segments is not None
    assert whole.segments[-1].text == "这是最重要"
