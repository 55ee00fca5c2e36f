-- Accuracy against the cost of inference, and what tuning saves of it: the smallest untuned model that
-- is at least as accurate as a tuned one.
WITH sized AS (
    SELECT
        benchmark,
        setting,
        partition,
        model,
        parameters,
        2 * parameters AS flops_per_token,
        n,
        accuracy,
        low,
        high,
        cluster_low,
        cluster_high,
        chance
    FROM int_scores
    INNER JOIN catalog_models USING (partition)
    WHERE level = 'all'
),
matched AS (
    SELECT
        tuned.benchmark,
        tuned.setting,
        tuned.partition,
        tuned.model,
        arg_min(untuned.partition, untuned.parameters) AS as_good_untuned,
        min(untuned.flops_per_token / tuned.flops_per_token) AS as_good_flops
    FROM sized AS tuned
    INNER JOIN sized AS untuned
        ON tuned.benchmark = untuned.benchmark
        AND tuned.setting = untuned.setting
        AND tuned.accuracy <= untuned.accuracy
    WHERE tuned.model = 'tuned' AND untuned.model = 'untuned'
    GROUP BY ALL
)
SELECT sized.*, matched.as_good_untuned, matched.as_good_flops
FROM sized
LEFT JOIN matched USING (benchmark, setting, partition, model)
ORDER BY benchmark, setting, parameters, partition, model
