-- Every tuned variant against the untuned model and against `tuned`, on the same queries. Empty where the
-- experiment has no variants.
WITH asked AS (
    SELECT
        *,
        -- Outcomes of queries that share their exemplars are no independent trials.
        concat(dataset, '/', context) AS draw
    FROM int_outcomes
    WHERE measure IN ('accuracy', 'calibrated')
),
pairs AS (
    SELECT
        theirs.model, theirs.benchmark, theirs.setting, theirs.flipped_percent, theirs.measure,
        theirs.variant, other.variant AS versus, theirs.draw, theirs.chance,
        theirs.correct, other.correct AS other_correct
    FROM asked AS theirs
    INNER JOIN asked AS other USING (model, benchmark, setting, measure, dataset, context, query)
    WHERE
        theirs.variant IN (SELECT variant FROM catalog_variants)
        AND other.variant IN ('untuned', 'tuned')
        AND theirs.variant <> other.variant
        AND (SELECT count(*) FROM catalog_variants) > 1
),
draws AS (
    SELECT
        * EXCLUDE (chance, correct, other_correct),
        count(*) AS n,
        sum(chance) AS chance,
        count(*) FILTER (WHERE correct) AS correct,
        count(*) FILTER (WHERE correct AND NOT other_correct) AS won,
        count(*) FILTER (WHERE other_correct AND NOT correct) AS lost
    FROM pairs
    GROUP BY ALL
),
counts AS (
    SELECT
        * EXCLUDE (draw, n, chance, correct, won, lost),
        sum(n)::BIGINT AS n,
        sum(chance) / sum(n) AS chance,
        sum(correct)::BIGINT AS correct,
        sum(won)::BIGINT AS won,
        sum(lost)::BIGINT AS lost,
        list(n ORDER BY draw) AS n_by_draw,
        list(won - lost ORDER BY draw) AS gain_by_draw
    FROM draws
    GROUP BY ALL
)
SELECT
    model,
    benchmark,
    setting,
    measure,
    variant,
    versus,
    n,
    chance,
    correct / n AS accuracy,
    wilson_low(correct, n) AS low,
    wilson_high(correct, n) AS high,
    (won - lost) / n AS gain,
    -- Fewer than ten draws of exemplars do not tell how draws differ.
    CASE WHEN len(n_by_draw) >= 10 THEN cluster_low(gain_by_draw, n_by_draw) END AS gain_cluster_low,
    CASE WHEN len(n_by_draw) >= 10 THEN cluster_high(gain_by_draw, n_by_draw) END AS gain_cluster_high,
    mcnemar_p(won, lost) AS p
FROM counts
ORDER BY model, benchmark, flipped_percent, setting, measure, variant, versus
