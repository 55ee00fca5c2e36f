-- The predictions and completions of all benchmarks in one normal form. Beside each of the tuned
-- variant stands whether the untuned one was right on the same prompt (null where it was not asked).
-- `confidence` is the probability that a variant gives to its prediction, among the labels alone.
WITH predictions AS (
    SELECT
        'icl' AS benchmark, setting, NULL::INTEGER AS flipped_percent, model, variant,
        dataset, NULL::VARCHAR AS category, context, query, correct, chance, logprobs
    FROM eval_icl
    UNION ALL
    SELECT
        'flipped' AS benchmark, setting, flipped_percent, model, variant,
        dataset, NULL::VARCHAR AS category, context, query, correct, chance, logprobs
    FROM eval_flipped
    UNION ALL
    SELECT
        benchmark, setting, NULL::INTEGER AS flipped_percent, model, variant,
        concept AS dataset, category, context, query, correct, NULL::DOUBLE AS chance,
        NULL::DOUBLE[] AS logprobs
    FROM eval_algorithmic
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
    correct,
    CASE
        WHEN variant = 'tuned'
            THEN bool_or(correct) FILTER (WHERE variant = 'untuned') OVER prompts
    END AS untuned_correct,
    chance,
    1 / list_sum([exp(logprob - list_max(logprobs)) FOR logprob IN logprobs]) AS confidence
FROM predictions
-- A window, not a join: it also matches prompts whose flipped_percent is null.
WINDOW prompts AS (
    PARTITION BY
        benchmark, setting, flipped_percent, model, dataset, category, context, query
)
ORDER BY benchmark, flipped_percent, setting, model, variant, dataset, category, context, query
