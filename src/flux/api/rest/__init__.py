"""PostgREST's grammar over the views of schema ``flux_api``: the tables of Flux by HTTP."""
