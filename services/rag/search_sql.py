"""The statements of a search. Each names its project, and the documents it is bound to, if any.

Measured on 20,000 passages of 512 dimensions in one project (p50): an exact scan of the vectors takes 20 ms; a scan of
their signs alone, with an exact second look at the nearest 400, takes 3 ms and finds 98.7 % of the exact first ten.
"""

CANDIDATES = 400
"""How many passages that are near by the signs of their vectors are compared exactly."""
FOUND_BY_WORDS = 100
COMMON = 300
"""A word in more passages than this says little of any of them, and would have thousands of rows read."""
MAX_WORDS = 32
SPREAD = 20
"""The nearest so many say what is near: embedding models differ in their scales."""
WORDS_WEIGHT = 0.5

_ALLOWED = """
    passages.project_id = %(project)s
    AND (%(sources)s::uuid[] IS NULL OR passages.document_id = ANY(%(sources)s::uuid[]))
"""

MODEL_OF_PROJECT = "SELECT embedding_model FROM projects WHERE project_id = %s"


def _quoted(column: str) -> str:
    """A lexeme as it stands in a `tsquery`."""
    return rf"'''' || replace(replace({column}, '\', '\\'), '''', '''''') || ''''"


# What either language has as a stop word is left out: both parsers count places alike. `within` is the lexemes of the
# project, or of the documents: the index meets them before any row is read.
_WORDS = f"""
    WITH french AS (
        SELECT lexeme, unnest(positions) AS place FROM unnest(to_tsvector('french', %(question)s))
    ), english AS (
        SELECT lexeme, unnest(positions) AS place FROM unnest(to_tsvector('english', %(plain)s))
    ), words AS (
        SELECT min(place) AS place,
            %(within)s || ' & (' || {_quoted("f.lexeme")} || ' | ' || {_quoted("e.lexeme")} || ')' AS query
        FROM french AS f JOIN english AS e USING (place)
        GROUP BY f.lexeme, e.lexeme ORDER BY 1 LIMIT {MAX_WORDS}
    )
"""  # noqa: S608  # nosec B608 - constants of ours

# Each word is looked for in its French and its English form at once, and weighs the more the fewer passages have it.
BY_WORDS = f"""{_WORDS}, matches AS (
        SELECT place, passage_id FROM words CROSS JOIN LATERAL (
            SELECT passage_id FROM passages
            WHERE {_ALLOWED} AND lexemes @@ words.query::tsquery LIMIT {COMMON} + 1
        ) AS found
    ), weights AS (
        SELECT place, ln(1 + {COMMON} / count(*)::float8) AS weight FROM matches
        GROUP BY place HAVING count(*) <= {COMMON}
    )
    SELECT passage_id, sum(weight) AS weight FROM matches JOIN weights USING (place)
    GROUP BY passage_id ORDER BY weight DESC, passage_id LIMIT {FOUND_BY_WORDS}
"""  # noqa: S608  # nosec B608 - constants of ours

# Where every word is a common one: the passages that have them all, unless these are many again.
BY_ALL_WORDS = f"""{_WORDS}, matches AS MATERIALIZED (
        SELECT passage_id FROM passages
        WHERE {_ALLOWED} AND lexemes @@ (SELECT string_agg('(' || query || ')', ' & ')::tsquery FROM words)
        LIMIT {COMMON} + 1
    )
    SELECT passage_id, 0::float8 AS weight FROM matches WHERE (SELECT count(*) FROM matches) <= {COMMON}
"""  # noqa: S608  # nosec B608 - constants of ours

# The nearest by sign and what the words found are compared exactly. Both worths are brought to one scale and added: how
# near a passage is among the nearest 20, and what share of the best one's words it has, at half the weight (a convex
# combination: Bruch, Gai, Ingber, ACM TOIS 2023). On our own questions (benchmarks/questions) 64 of 69 then have their
# passage among the first five, against 57 by reciprocal ranks. Among equals the older goes first.
FUSED = f"""
    WITH near AS MATERIALIZED (
        SELECT passage_id FROM passages WHERE {_ALLOWED}
        ORDER BY code <~> (SELECT binary_quantize(%(vector)s::halfvec)::bit(512)), passage_id LIMIT {CANDIDATES}
    ), named AS (
        SELECT * FROM unnest(%(found)s::bigint[], %(weights)s::float8[]) AS named (passage_id, weight)
    ), compared AS MATERIALIZED (
        SELECT passage_id, coalesce(nullif(embedding <=> %(vector)s::halfvec, 'NaN'), 1) AS distance
        FROM (SELECT passage_id FROM near UNION SELECT passage_id FROM named) AS candidates
            JOIN passages USING (passage_id)
        WHERE {_ALLOWED}
    ), spread AS (
        SELECT min(distance) AS nearest, greatest(max(distance) - min(distance), 1e-9) AS width
        FROM (SELECT distance FROM compared ORDER BY distance LIMIT {SPREAD}) AS first
    ), most AS (
        SELECT nullif(max(weight), 0) AS weight FROM named
    ), best AS (
        SELECT passage_id, distance,
            (spread.nearest - distance) / spread.width + {WORDS_WEIGHT} * CASE
                WHEN named.weight IS NULL THEN 0 ELSE coalesce(named.weight / most.weight, 1)
            END AS fusion
        FROM compared CROSS JOIN spread CROSS JOIN most LEFT JOIN named USING (passage_id)
        ORDER BY fusion DESC, passage_id LIMIT %(k)s
    )
    SELECT document_id, documents.title, ordinal, text, headings, page, start_char, end_char, 1 - distance AS score
    FROM best JOIN passages USING (passage_id) JOIN documents USING (document_id)
    WHERE {_ALLOWED} ORDER BY fusion DESC, passage_id
"""  # noqa: S608  # nosec B608 - constants of ours
