"""Checks of stage 08, the translation Transformer."""

from chts_core.lab.notebook.checks.slips import refuse
from chts_core.topology import link_count


def padding_share(padding_share: float | None) -> None:
    """Padding: its share of the batch."""
    tokens = (4, 6, 7, 10)
    places = len(tokens) * max(tokens)
    padding = places - sum(tokens)
    assert padding_share is not None, "replace None in the cell above by a number between 0 and 1."
    assert padding_share != padding, f"{padding} is the number of padded places; divide it by all places."
    slips = {
        "per cent: give a share between 0 and 1": 100 * padding / places,
        "the share of the tokens; the rest is padding": 1 - padding / places,
        "padding over tokens: divide by all places, padding included": padding / sum(tokens),
        "right for two batches of two; here all four are in one batch": 1 - 27 / (2 * 6 + 2 * 10),
    }
    refuse(padding_share, slips, 0.005)
    right = padding / places
    assert abs(padding_share - right) < 0.006, f"{padding_share} is not right; the batch has {places} places."


def decoder_links(decoder_links: float | None) -> None:
    """Links of a decoder layer: how many it has."""
    assert decoder_links is not None, "replace None in the cell above by a number of links."
    square, fed = 512 * 512, 512 * 1024
    slips = {
        "the number of possible links; how many are kept at 95 % sparsity?": 8 * square + 2 * fed,
        "the number of absent links": 0.95 * (8 * square + 2 * fed),
        "right for a layer of the encoder; the decoder also has a cross-attention": 0.05 * (4 * square + 2 * fed),
        "right for the attentions; the feed-forward block is missing": 0.05 * 8 * square,
        "one layer of the feed-forward block short: it has two": 0.05 * (8 * square + fed),
        "right for three projections; each attention has a fourth, the output": 0.05 * (6 * square + 2 * fed),
    }
    refuse(decoder_links, slips, 10)
    expected = 8 * link_count(512, 512, 0.05) + 2 * link_count(512, 1024, 0.05)
    assert abs(decoder_links - expected) <= 5, f"{decoder_links} is not right; the layer has ten linear layers."


def scores(score_a: float | None, score_b: float | None) -> None:
    """Which one wins: the scores of the hypotheses A and B; prints which is returned."""
    stubs = "replace both None in the cell above by scores."
    assert score_a is not None, stubs
    assert score_b is not None, stubs
    assert max(score_a, score_b) < 0, "a score has the sign of its log-probability: negative."
    for answer, pieces, log in ((score_a, 4, -2.0), (score_b, 7, -2.3)):
        slips = {
            "the log-probability per piece; the penalty grows more slowly": log / pieces,
            "the score without the exponent 0.6": log / ((5 + pieces) / 6),
            "the log-probability times the penalty: divide": log * ((5 + pieces) / 6) ** 0.6,
            "the score with one piece too many: the end is counted already": log / ((6 + pieces) / 6) ** 0.6,
        }
        refuse(answer, slips, 0.002)
    for name, answer, pieces, log in (("A", score_a, 4, -2.0), ("B", score_b, 7, -2.3)):
        right = log / ((5 + pieces) / 6) ** 0.6
        assert abs(answer - right) < 0.002, f"{answer} is not right for {name}, which has n = {pieces}."
    print("the higher score is returned:", "B" if score_b > score_a else "A")
