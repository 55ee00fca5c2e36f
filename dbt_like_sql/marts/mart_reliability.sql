-- How often choices of about one confidence are right, in the ten equal bins of the expected calibration
-- error.
WITH binned AS (
    SELECT
        benchmark,
        setting,
        model,
        variant,
        least(floor(confidence * 10), 9)::INTEGER AS bin,
        confidence,
        correct
    FROM int_outcomes
    WHERE measure = 'accuracy' AND confidence IS NOT NULL
),
counted AS (
    SELECT
        * EXCLUDE (confidence, correct),
        count(*) AS n,
        avg(confidence) AS confidence,
        count(*) FILTER (WHERE correct) AS correct
    FROM binned
    GROUP BY ALL
)
SELECT
    *,
    correct / n AS accuracy,
    wilson_low(correct, n) AS low,
    wilson_high(correct, n) AS high
FROM counted
ORDER BY benchmark, setting, model, variant, bin
