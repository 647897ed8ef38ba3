-- Signed calls of dispatch platforms.
SELECT 1;
