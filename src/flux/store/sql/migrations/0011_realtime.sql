-- What changed, in the order of commits: realtime's cursor.
SELECT 1;
