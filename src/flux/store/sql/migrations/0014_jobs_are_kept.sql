-- Jobs for edges are kept for a while, as what became of them; none is open for longer than a week.

INSERT INTO flux.time_series (table_name, time_column, step, engine, keep) VALUES ('edge_jobs', 'created_at', 'month', 'rows', '90 days');
CREATE INDEX edge_jobs_created_at_idx ON flux.edge_jobs USING brin (created_at);
