"""The SQL of the API's security, rendered from :mod:`flux.store.rights`: policies, views, functions, grants.

Two scripts. The *fence* (functions that say what a session may see, policies on tables, triggers that guard and note
writes) needs no roles and is in every database. The *api* (schema ``flux_api`` and all grants) needs the roles, which
not everybody may make: see :mod:`flux.store.roles`.
"""

import json
from pathlib import Path

from flux.store.rights import (
    API_ROLES,
    DEFINER_FUNCTIONS,
    FENCE_FUNCTIONS,
    FUNCTIONS,
    SERVER_ALSO,
    SERVER_ROLE,
    TABLES,
    VERBS,
    VIEW_FUNCTIONS,
    VIEWS_ALSO,
    VIEWS_ROLE,
    Table,
)

_SQL = Path(__file__).parent / "sql"
_FROM_API = "current_setting('request.jwt.claims', true) <> '' OR session_user LIKE 'flux\\_gateway\\_%'"

_GRANT_ROUTINES = """
DO $do$
DECLARE
    one regprocedure;
BEGIN
    FOR one IN SELECT p.oid FROM pg_proc p
               WHERE p.pronamespace = 'flux'::regnamespace AND p.prorettype <> 'trigger'::regtype
               AND (NOT p.prosecdef OR p.proname IN (%definer%)) LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO flux_server, flux_views', one);
    END LOOP;
    IF to_regrole(quote_ident(flux.gateway_name())) IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SCHEMA flux TO %I', flux.gateway_name());
        EXECUTE format('GRANT EXECUTE ON FUNCTION flux.check_key(uuid) TO %I', flux.gateway_name());
    END IF;
END $do$;
"""


def fence_sql() -> str:
    """Functions, policies and triggers; for the tables' owner nothing changes by them."""
    parts = [(_SQL / "fence.sql").read_text(encoding="utf-8")]
    parts += [f"GRANT EXECUTE ON FUNCTION flux.{name} TO PUBLIC;" for name in FENCE_FUNCTIONS]
    parts += [_policies(table) for table in TABLES if not table.series and not table.view]
    parts += [_triggers(table) for table in TABLES if not table.view]
    return "\n".join(parts)


def api_sql(follows: str) -> str:
    """Schema ``flux_api``; ``follows``: something that changes when the schema beneath does."""
    parts = [f"-- over {follows}"]
    parts += [file.read_text(encoding="utf-8") for file in sorted((_SQL / "api").glob("*.sql"))]
    parts += [_view(table) for table in TABLES]
    parts += [_function(name, given) for name, given in FUNCTIONS.items()]
    parts += [_grants(table) for table in TABLES]
    parts += [_function_grants()]
    return "\n".join(parts)


def _policies(table: Table) -> str:
    """Two policies for everybody: what is seen, what is written. They hold for whoever does not own the table."""
    name = f"flux.{table.name}"
    sees, writes = table.fence.sees, table.fence.writes
    lines = [
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;",
        f"DROP POLICY IF EXISTS seen ON {name};",
        f"DROP POLICY IF EXISTS written ON {name};",
        f"CREATE POLICY seen ON {name} FOR SELECT USING ({sees});",
        f"CREATE POLICY written ON {name} FOR ALL USING ({writes}) WITH CHECK ({writes});",
    ]
    return "\n".join(lines)


def _view(table: Table) -> str:
    seen = table.fence.sees.replace("'", "''")
    return f"SELECT flux.put_api_view('{table.name}', '{seen}', {str(table.writable).lower()});"


def _function(name: str, given: dict[str, str]) -> str:
    return f"SELECT flux.put_api_function('{name}', '{json.dumps(given)}');"


def _grants(table: Table) -> str:
    """Rights anew: what was granted before and is not meant any more goes."""
    roles = ", ".join((*API_ROLES, SERVER_ROLE, VIEWS_ROLE))
    lines = [
        f"REVOKE ALL ON flux.{table.name} FROM {roles};",
        f"REVOKE ALL ON flux_api.{table.name} FROM {', '.join(API_ROLES)};",
    ]
    for role in API_ROLES:
        lines += [_grant(table, verb, f"flux_api.{table.name}", role) for verb in table.verbs(role)]
    for role in (SERVER_ROLE, VIEWS_ROLE):
        lines += [f"GRANT {VERBS[verb]} ON flux.{table.name} TO {role};" for verb in table.verbs(role)]
    return "\n".join(lines)


def _grant(table: Table, verb: str, relation: str, role: str) -> str:
    columns = f" ({', '.join(table.updatable)})" if verb == "u" and table.updatable else ""
    return f"GRANT {VERBS[verb]}{columns} ON {relation} TO {role};"


def _function_grants() -> str:
    everybody = ", ".join(API_ROLES)
    readers = ", ".join(role for role in API_ROLES if role not in ("flux_anon", "flux_edge"))
    lines = [f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA flux_api TO {readers};"]
    lines += [f"GRANT EXECUTE ON FUNCTION flux.{name} TO {everybody};" for name in VIEW_FUNCTIONS]
    for name, verbs in SERVER_ALSO.items():
        lines += [f"GRANT {VERBS[verb]} ON flux.{name} TO {SERVER_ROLE};" for verb in verbs]
    lines += [f"GRANT SELECT ON flux.{name} TO {VIEWS_ROLE};" for name in VIEWS_ALSO]
    names = ", ".join(f"'{name}'" for name in DEFINER_FUNCTIONS)
    return "\n".join([*lines, _GRANT_ROUTINES.replace("%definer%", names)])


def _triggers(table: Table) -> str:
    """The guard and the note of writes; no more than a look at a setting for sessions that are not the API's."""
    name, lines = f"flux.{table.name}", []
    arguments = f"'{'devices' if table.series else ''}', '{'noted' if table.noted else ''}'"
    events = {"INSERT": "NEW TABLE AS written", "UPDATE": "OLD TABLE AS before NEW TABLE AS written"}
    if not table.series:
        events["DELETE"] = "OLD TABLE AS before"
    written = set("".join(table.verbs(role) for role in (*API_ROLES, SERVER_ROLE)))
    for event, transitions in events.items():
        if event[0].lower() in written:
            lines.append(
                f"CREATE OR REPLACE TRIGGER api_{event.lower()} AFTER {event} ON {name} REFERENCING {transitions} "
                f"FOR EACH STATEMENT WHEN ({_FROM_API}) EXECUTE FUNCTION flux.api_written({arguments});"
            )
    if table.stamped:
        stamps = ", ".join(f"'{stamp}'" for stamp in table.stamped)
        roles = ", ".join(f"'{role}'" for role in API_ROLES)
        lines.append(
            f"CREATE OR REPLACE TRIGGER api_stamp BEFORE INSERT OR UPDATE ON {name} FOR EACH ROW "
            f"WHEN (current_setting('role') IN ({roles})) EXECUTE FUNCTION flux.stamp_actor({stamps});"
        )
    return "\n".join(lines)
