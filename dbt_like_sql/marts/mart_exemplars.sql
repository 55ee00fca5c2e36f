-- Accuracy against the number of exemplars of each class, for every variant, and its gain over the fewest on
-- the same queries, whose exemplars are among those of the larger numbers. Empty where one number is asked.
WITH asked AS (
    SELECT
        * EXCLUDE (setting),
        regexp_extract(setting, '^(.*), k = ([0-9]+)$', 1) AS setting,
        regexp_extract(setting, '^(.*), k = ([0-9]+)$', 2)::INTEGER AS exemplars_per_class,
        -- Outcomes of queries that share their exemplars are no independent trials.
        concat(dataset, '/', context) AS draw
    FROM int_outcomes
    WHERE measure IN ('accuracy', 'calibrated') AND regexp_matches(setting, ', k = [0-9]+$')
),
fewest AS (
    SELECT *
    FROM asked
    QUALIFY exemplars_per_class = min(exemplars_per_class) OVER (PARTITION BY model)
),
draws AS (
    SELECT
        more.model, more.benchmark, more.setting, more.flipped_percent, more.measure,
        more.exemplars_per_class, fewest.exemplars_per_class AS fewest, more.variant, more.draw,
        count(*) AS n,
        sum(more.chance) AS chance,
        count(*) FILTER (WHERE more.correct) AS correct,
        count(*) FILTER (WHERE more.correct AND NOT fewest.correct) AS won,
        count(*) FILTER (WHERE fewest.correct AND NOT more.correct) AS lost
    FROM asked AS more
    INNER JOIN fewest
        USING (model, benchmark, setting, measure, variant, dataset, context, query)
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
        list(correct ORDER BY draw) AS correct_by_draw,
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
    exemplars_per_class,
    fewest,
    n,
    chance,
    correct / n AS accuracy,
    wilson_low(correct, n) AS low,
    wilson_high(correct, n) AS high,
    -- Fewer than ten draws of exemplars do not tell how draws differ.
    CASE WHEN len(n_by_draw) >= 10 THEN cluster_low(correct_by_draw, n_by_draw) END AS cluster_low,
    CASE WHEN len(n_by_draw) >= 10 THEN cluster_high(correct_by_draw, n_by_draw) END AS cluster_high,
    CASE WHEN exemplars_per_class > fewest THEN (won - lost) / n END AS gain,
    CASE
        WHEN exemplars_per_class > fewest AND len(n_by_draw) >= 10
            THEN cluster_low(gain_by_draw, n_by_draw)
    END AS gain_cluster_low,
    CASE
        WHEN exemplars_per_class > fewest AND len(n_by_draw) >= 10
            THEN cluster_high(gain_by_draw, n_by_draw)
    END AS gain_cluster_high,
    CASE WHEN exemplars_per_class > fewest THEN mcnemar_p(won, lost) END AS p
FROM counts
ORDER BY model, benchmark, flipped_percent, setting, measure, variant, exemplars_per_class
