"""What answers are encoded as, whatever an agent's own text holds."""

from api.json_response import encoded, encoded_texts


def test_half_a_character_is_replaced_alike_in_pieces_and_in_a_whole_answer():
    assert encoded_texts(["a\ud83d b", "c"]) == ['"a\ufffd b"'.encode(), b'"c"']
    assert encoded({"response": "a\ud83d b"}) == '{"response":"a\ufffd b"}'.encode()
