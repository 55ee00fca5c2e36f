-- Every setting of every benchmark in one figure per variant: what the report opens with. Its accuracies are
-- over queries; where a benchmark has datasets, those in which every dataset counts alike stand beside them.
WITH datasets AS (
    SELECT
        benchmark,
        setting,
        model,
        variant,
        avg(accuracy) AS mean_accuracy,
        avg(chance) AS mean_chance,
        avg(gain) AS mean_gain
    FROM int_scores
    WHERE measure = 'accuracy' AND level = 'dataset' AND benchmark IN ('icl', 'flipped')
    GROUP BY ALL
)
SELECT
    int_scores.* EXCLUDE (level, measure, dataset, category),
    datasets.mean_accuracy,
    datasets.mean_chance,
    datasets.mean_gain
FROM int_scores
LEFT JOIN datasets USING (benchmark, setting, model, variant)
WHERE int_scores.measure = 'accuracy' AND int_scores.level = 'all'
ORDER BY
    int_scores.benchmark, int_scores.flipped_percent, int_scores.setting, int_scores.model,
    int_scores.variant
