-- Four ways to ask the same queries: without exemplars, with them in the prompt, after tuning on them, and
-- both. Gains are over the answers without exemplars. `alike` says how far a way changes those answers as
-- tuning on the exemplars does. Empty where evaluation.finetuned.steps is 0.
WITH asked AS (
    SELECT
        model, variant, dataset, context, query, chance, prediction, correct,
        regexp_extract(setting, '^(.*): ([a-z -]+)$', 1) AS setting,
        regexp_extract(setting, '^(.*): ([a-z -]+)$', 2) AS way
    FROM eval_finetuned
),
-- Beside every answer those without exemplars and after tuning, to the same query.
beside AS (
    SELECT
        *,
        bool_or(correct) FILTER (WHERE way = 'zero-shot') OVER same_query AS correct_before,
        max(prediction) FILTER (WHERE way = 'zero-shot') OVER same_query AS before,
        max(prediction) FILTER (WHERE way = 'fine-tuned') OVER same_query AS after
    FROM asked
    WINDOW same_query AS (PARTITION BY model, variant, setting, dataset, context, query)
),
draws AS (
    SELECT
        model, variant, setting, way,
        -- Outcomes of queries that share their exemplars are no independent trials.
        concat(dataset, '/', context) AS draw,
        count(*) AS n,
        sum(chance) AS chance,
        count(*) FILTER (WHERE correct) AS correct,
        count(*) FILTER (WHERE correct AND NOT correct_before) AS won,
        count(*) FILTER (WHERE correct_before AND NOT correct) AS lost,
        count(*) FILTER (WHERE after <> before) AS changed,
        count(*) FILTER (WHERE after <> before AND prediction = after) AS alike
    FROM beside
    GROUP BY ALL
),
counts AS (
    SELECT
        * EXCLUDE (draw, n, chance, correct, won, lost, changed, alike),
        sum(n)::BIGINT AS n,
        sum(chance) / sum(n) AS chance,
        sum(correct)::BIGINT AS correct,
        sum(won)::BIGINT AS won,
        sum(lost)::BIGINT AS lost,
        sum(changed)::BIGINT AS changed,
        sum(alike)::BIGINT AS alike,
        list(n ORDER BY draw) AS n_by_draw,
        list(correct ORDER BY draw) AS correct_by_draw,
        list(won - lost ORDER BY draw) AS gain_by_draw
    FROM draws
    GROUP BY ALL
)
SELECT
    model,
    variant,
    setting,
    way,
    n,
    chance,
    correct / n AS accuracy,
    wilson_low(correct, n) AS low,
    wilson_high(correct, n) AS high,
    -- Fewer than ten draws of exemplars do not tell how draws differ.
    CASE WHEN len(n_by_draw) >= 10 THEN cluster_low(correct_by_draw, n_by_draw) END AS cluster_low,
    CASE WHEN len(n_by_draw) >= 10 THEN cluster_high(correct_by_draw, n_by_draw) END AS cluster_high,
    CASE WHEN way <> 'zero-shot' THEN (won - lost) / n END AS gain,
    CASE WHEN way <> 'zero-shot' AND len(n_by_draw) >= 10 THEN cluster_low(gain_by_draw, n_by_draw) END
        AS gain_cluster_low,
    CASE WHEN way <> 'zero-shot' AND len(n_by_draw) >= 10 THEN cluster_high(gain_by_draw, n_by_draw) END
        AS gain_cluster_high,
    CASE WHEN way <> 'zero-shot' THEN mcnemar_p(won, lost) END AS p,
    changed,
    CASE WHEN way NOT IN ('zero-shot', 'fine-tuned') THEN alike / nullif(changed, 0) END AS alike,
    CASE WHEN way NOT IN ('zero-shot', 'fine-tuned') AND changed > 0 THEN wilson_low(alike, changed) END
        AS alike_low,
    CASE WHEN way NOT IN ('zero-shot', 'fine-tuned') AND changed > 0 THEN wilson_high(alike, changed) END
        AS alike_high
FROM counts
ORDER BY model, setting, variant, list_position(['zero-shot', 'in context', 'fine-tuned', 'both'], way)
