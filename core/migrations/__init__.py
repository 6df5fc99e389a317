"""The database's schema, one file a change, in plain SQL. `HEAD` names the newest: most starts need not import Alembic.

A migration only adds (nullable columns, tables, indexes) or lifts a constraint: during an upgrade the
former version still runs beside.
"""

HEAD = "0009"
