-- The one place where answers become figures, at three levels: over a whole setting ('all'), for
-- each of its datasets or concepts ('dataset'), and for each category of concepts ('category').
WITH counts AS (
    SELECT
        CASE
            WHEN grouping(dataset) = 0 THEN 'dataset'
            WHEN grouping(category) = 0 THEN 'category'
            ELSE 'all'
        END AS level,
        benchmark,
        setting,
        flipped_percent,
        partition,
        model,
        dataset,
        category,
        count(*) AS n,
        count(*) FILTER (WHERE correct) AS correct,
        avg(chance) AS chance,
        count(untuned_correct) AS pairs,
        count(*) FILTER (WHERE correct AND NOT untuned_correct) AS won,
        count(*) FILTER (WHERE untuned_correct AND NOT correct) AS lost
    FROM int_outcomes
    GROUP BY GROUPING SETS (
        (benchmark, setting, flipped_percent, partition, model),
        (benchmark, setting, flipped_percent, partition, model, dataset),
        (benchmark, setting, flipped_percent, partition, model, category)
    )
)
SELECT
    level,
    benchmark,
    setting,
    flipped_percent,
    partition,
    model,
    dataset,
    category,
    n,
    correct,
    correct / n AS accuracy,
    wilson_low(correct, n) AS low,
    wilson_high(correct, n) AS high,
    chance,
    -- Null without pairs, and so on every row that is not the tuned model's.
    (won - lost) / nullif(pairs, 0) AS gain,
    paired_low(won, lost, nullif(pairs, 0)) AS gain_low,
    paired_high(won, lost, nullif(pairs, 0)) AS gain_high,
    CASE WHEN pairs > 0 THEN mcnemar_p(won, lost) END AS p
FROM counts
ORDER BY level, benchmark, flipped_percent, setting, partition, model, dataset, category
