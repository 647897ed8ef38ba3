"""PostgreSQL: where everything is kept.

``server``    the embedded server, one for each home          ``binaries``  its programs and the user they run as
``db``        where the database is; connections and pools    ``migrate``   the schema
``ingest``    readings in                                     ``rejected``  what was refused
``queries``   readings and rollups out                        ``rollups``   the rollup engine
``backup``    backup and restore
"""
