-- Jobs for the edge of a site: scan, test, set-point, stop.
SELECT 1;
