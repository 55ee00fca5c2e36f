-- Accuracy against the cost of inference, and what tuning saves of it: the smallest model that is at
-- least as accurate untuned as this one is tuned, of those that were asked as many queries. Where only some
-- labels are flipped, the right answer is the flipped label all the same, so that a good model may score low.
WITH sized AS (
    SELECT
        benchmark,
        setting,
        flipped_percent,
        model,
        variant,
        parameters,
        2 * parameters AS flops_per_token,  -- a forward pass multiplies and adds once a weight
        n,
        accuracy,
        low,
        high,
        cluster_low,
        cluster_high,
        chance
    FROM int_scores
    INNER JOIN catalog_models USING (model)
    WHERE measure = 'accuracy' AND level = 'all'
),
matched AS (
    SELECT
        tuned.benchmark,
        tuned.setting,
        tuned.model,
        tuned.variant,
        arg_min(untuned.model, untuned.parameters) AS as_good_untuned,
        min(untuned.flops_per_token / tuned.flops_per_token) AS as_good_flops
    FROM sized AS tuned
    INNER JOIN sized AS untuned
        ON tuned.benchmark = untuned.benchmark
        AND tuned.setting = untuned.setting
        AND tuned.n = untuned.n
        AND tuned.accuracy <= untuned.accuracy
    WHERE tuned.variant = 'tuned' AND untuned.variant = 'untuned'
        AND coalesce(tuned.flipped_percent, 100) = 100
    GROUP BY ALL
)
SELECT sized.*, matched.as_good_untuned, matched.as_good_flops
FROM sized
LEFT JOIN matched USING (benchmark, setting, model, variant)
ORDER BY benchmark, setting, parameters, model, variant
