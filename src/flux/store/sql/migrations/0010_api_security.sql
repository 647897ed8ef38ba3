-- Keys of the HTTP API, what they may see, and who wrote what through it.
SELECT 1;
