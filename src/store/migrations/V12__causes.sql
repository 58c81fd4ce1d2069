-- More about each attempt: the second that its request names as its time, so that the request's headers can be made again; the
-- cause within the phase that `error` names; the headers of the answer that are kept; whether its body was longer than the
-- snippet. All are null in rows from before, and but for the second in those of most successes. No default rewrites a row.
-- Rather fail, and be tried again, than have everybody wait behind a long reader.
SET LOCAL lock_timeout = '2s';
ALTER TABLE attempts
    ADD COLUMN signed_at bigint,
    ADD COLUMN error_detail text,
    ADD COLUMN response_headers json,
    ADD COLUMN response_truncated boolean;
