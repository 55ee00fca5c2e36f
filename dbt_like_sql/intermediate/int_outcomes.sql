-- The predictions and completions of all benchmarks in one normal form: for each, what it may be counted
-- for. Beside each of the tuned variant stands the same of the untuned one on the same prompt (null where
-- it was not asked). `confidence` is the probability that a variant gives to its choice, among the labels
-- alone.
WITH predictions AS (
    SELECT
        'icl' AS benchmark, setting, NULL::INTEGER AS flipped_percent, model, variant,
        dataset, NULL::VARCHAR AS category, context, query, prediction, target, chance,
        correct, logprobs, calibrated_correct, content_free, channel_correct, channel_logprobs
    FROM eval_icl
    UNION ALL
    SELECT
        'flipped' AS benchmark, setting, flipped_percent, model, variant,
        dataset, NULL::VARCHAR AS category, context, query, prediction, target, chance,
        correct, logprobs, calibrated_correct, content_free, channel_correct, channel_logprobs
    FROM eval_flipped
    WHERE setting <> 'zero-shot'
    UNION ALL
    SELECT
        benchmark, setting, NULL::INTEGER AS flipped_percent, model, variant,
        concept AS dataset, category, context, query, NULL::USMALLINT AS prediction,
        NULL::USMALLINT AS target,
        -- Its answer is one of two labels; what the others ask for cannot be guessed.
        CASE WHEN benchmark = 'linear_classification' THEN 0.5::DOUBLE END AS chance,
        correct, NULL::DOUBLE[] AS logprobs, NULL::BOOLEAN AS calibrated_correct,
        NULL::DOUBLE[] AS content_free, NULL::BOOLEAN AS channel_correct,
        NULL::DOUBLE[] AS channel_logprobs
    FROM eval_algorithmic
),
-- What a variant takes a query's labels to mean: its choice where no exemplar is shown.
flips AS (
    SELECT
        predictions.*,
        zero_shot.prediction AS prior,
        zero_shot.target AS truth
    FROM predictions
    INNER JOIN eval_flipped AS zero_shot
        ON predictions.model = zero_shot.model
        AND predictions.variant = zero_shot.variant
        AND predictions.dataset = zero_shot.dataset
        AND predictions.context = zero_shot.context
        AND predictions.query = zero_shot.query
    WHERE predictions.benchmark = 'flipped' AND zero_shot.setting = 'zero-shot'
),
measured AS (
    SELECT
        benchmark, setting, flipped_percent, model, variant, dataset, category, context, query,
        'accuracy' AS measure, correct AS counted, chance, logprobs AS scores
    FROM predictions
    UNION ALL
    SELECT
        benchmark, setting, flipped_percent, model, variant, dataset, category, context, query,
        'calibrated' AS measure, calibrated_correct AS counted, chance,
        [pair[1] - pair[2] FOR pair IN list_zip(logprobs, content_free)] AS scores
    FROM predictions
    WHERE calibrated_correct IS NOT NULL
    UNION ALL
    SELECT
        benchmark, setting, flipped_percent, model, variant, dataset, category, context, query,
        'channel' AS measure, channel_correct AS counted, chance, channel_logprobs AS scores
    FROM predictions
    WHERE channel_correct IS NOT NULL
    UNION ALL
    SELECT
        benchmark, setting, flipped_percent, model, variant, dataset, category, context, query,
        measure, counted, chance, NULL::DOUBLE[] AS scores
    FROM (
        SELECT *, 'truth' AS measure, prediction = truth AS counted
        FROM flips
        UNION ALL
        SELECT *, 'prior' AS measure, prediction = prior AS counted
        FROM flips
        UNION ALL
        SELECT *, 'override' AS measure, prediction = target AS counted
        FROM flips
        WHERE prior = truth
        UNION ALL
        SELECT *, 'zero-shot' AS measure, prior = truth AS counted
        FROM flips
    ) AS aligned
)
SELECT
    benchmark,
    setting,
    flipped_percent,
    model,
    variant,
    dataset,
    category,
    context,
    query,
    measure,
    counted AS correct,
    CASE
        WHEN variant = 'tuned'
            THEN bool_or(counted) FILTER (WHERE variant = 'untuned') OVER prompts
    END AS untuned_correct,
    chance,
    1 / list_sum([exp(score - list_max(scores)) FOR score IN scores]) AS confidence
FROM measured
-- A window, not a join: it also matches prompts whose flipped_percent is null.
WINDOW prompts AS (
    PARTITION BY
        benchmark, setting, flipped_percent, model, dataset, category, context, query, measure
)
ORDER BY
    benchmark, flipped_percent, setting, model, variant, dataset, category, context, query, measure
